"""The one place where classifiers are built: any timm network, and ours, with a small stem for small images."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import timm
import torch
from torch import Tensor, nn

from core.runtime.errors import UserError, nearest
from tasks.networks.mini_networks import patch_size
from tasks.user_code import call_user_code

SMALL_IMAGE = 64  # pixels; at most this, a stem that divides the size by 4 would leave too little


@dataclass(frozen=True)
class ModelSpec:
    """The `task.model` section: arguments of `build_classifier` beside those that the images decide."""

    name: str
    pretrained: bool = False
    small_stem: bool | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


def build_classifier(
    name: str,
    *,
    num_classes: int,
    channels: int,
    image_size: int,
    pretrained: bool = False,
    small_stem: bool | None = None,
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Return a network with new weights, in training mode.

    Args:
        name: a network of timm, one of `tasks.networks.mini_networks`, or the user's "package.module:callable", which
            is called with `options` alone.
        num_classes: rows of the last layer.
        channels: of the images.
        image_size: S, in pixels.
        pretrained: start from timm's published weights (downloaded at first use).
        small_stem: a stem that keeps more of a small image: a 3×3 convolution without max-pool for a ResNet, smaller
            patches for a ViT and a ConvNeXt; others have none. None means: where the images are at most 64 pixels
            and the weights are not pretrained, since those of the stem would not fit.
        options: further arguments of `timm.create_model`; they win over what the image size suggests.

    Raises:
        UserError: no such network, arguments that it does not take, weights that cannot be had, or images that it
            cannot take.
    """
    if ":" in name:
        return call_user_code(name, "task.model.name", options)
    if name not in timm.list_models():
        raise UserError(
            f"task.model.name={name!r} is not a network of timm {timm.__version__}: {nearest(name, timm.list_models())}"
        )
    small = image_size <= SMALL_IMAGE and not pretrained if small_stem is None else small_stem
    arguments: dict[str, Any] = {
        "num_classes": num_classes,
        "in_chans": channels,
        **size_options(name, image_size, small),
    }
    arguments |= options or {}
    try:
        model: Any = timm.create_model(name, pretrained=pretrained, **arguments)
    except TypeError as error:
        raise UserError(f"task.model.options={dict(options or {})} do not fit {name}: {error}") from error
    except Exception as error:  # what the hub's client raises without a network is not always an OSError
        if pretrained:
            raise UserError(
                f"no pretrained weights for {name} with these options ({error}); "
                "connect to a network once, give other task.model.options, or task.model.pretrained=false"
            ) from error
        raise UserError(word_refusal(name, error, channels=channels, image_size=image_size)) from error
    if small:
        shrink_stem(model)
    model.created_with = arguments  # so that an exported model can say how to load it
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, channels, image_size, image_size))
    except Exception as error:  # each network has its own way of failing at a size
        raise UserError(word_refusal(name, error, channels=channels, image_size=image_size)) from error
    return model.train()


def build_for(facts: Mapping[str, int], model: ModelSpec) -> nn.Module:
    """Return the network of a specification for images with these facts (`ImageData.facts`)."""
    return build_classifier(
        model.name,
        num_classes=facts["num_classes"],
        channels=facts["channels"],
        image_size=facts["image_size"],
        pretrained=model.pretrained,
        small_stem=model.small_stem,
        options=model.options,
    )


def weights_colors(name: str) -> tuple[list[float], list[float]] | None:
    """Return mean and std of each channel that timm's pretrained weights were trained with; None without weights."""
    published = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    return (list(published.mean), list(published.std)) if published else None


def word_refusal(name: str, error: Exception, *, channels: int, image_size: int) -> str:
    """Return the sentence about a network that cannot take the images."""
    return (
        f"task.model.name={name} cannot take images of {channels}×{image_size}×{image_size} "
        f"({str(error) or type(error).__name__}); "
        "give a larger task.data.image_size=, task.model.small_stem=true, or other task.model.options"
    )


def size_options(name: str, image_size: int, small: bool) -> dict[str, int]:
    """Return arguments of `timm.create_model` that fit a network to an image size, with a small stem or its own."""
    options = {}
    architecture = timm.get_pretrained_cfg(name)
    if architecture and architecture.fixed_input_size and image_size != architecture.input_size[-1]:
        options["img_size"] = image_size
    family = timm.models.model_entrypoint(name).__module__.rpartition(".")[2]
    if small and family in ("vision_transformer", "deit"):
        options["patch_size"] = min(16, patch_size(image_size))
    if small and family == "convnext":
        options["patch_size"] = 1 if image_size <= 32 else 2
    return options


def shrink_stem(model: nn.Module) -> None:
    """Give a ResNet its usual form for CIFAR (He et al. 2016, §4.2); leave networks without its stem as they are."""
    old = getattr(model, "conv1", None)
    if isinstance(old, nn.Conv2d) and isinstance(getattr(model, "maxpool", None), nn.MaxPool2d):
        model.conv1 = nn.Conv2d(old.in_channels, old.out_channels, 3, padding=1, bias=False)
        model.maxpool = nn.Identity()
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")


def load_network(model: nn.Module, state: Mapping[str, Tensor], source: str) -> nn.Module:
    """Put a whole stored state dict into `model`, in eval mode.

    Raises:
        UserError: names or shapes that differ, the first of them named.
    """
    own = model.state_dict()
    wrong = [
        name
        for name in own.keys() | state.keys()
        if own.get(name, torch.empty(0)).shape != state.get(name, torch.empty(0)).shape
    ]
    if missing := sorted(own.keys() ^ state.keys()) or sorted(wrong):
        name = missing[0]
        shapes = [tuple(side[name].shape) if name in side else "absent" for side in (state, own)]
        raise UserError(
            f"{source} does not fit this network: {name} is {shapes[0]} in the file and {shapes[1]} in the network "
            f"({len(missing)} entries differ); check task.model and task.data"
        )
    model.load_state_dict(state)
    return model.eval()
