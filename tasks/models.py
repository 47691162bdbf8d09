"""The one place where classifiers are built: any timm network, with a small stem for small images."""

from collections.abc import Mapping
from typing import Any

import timm
import torch
from torch import Tensor, nn

from core.runtime.errors import UserError, nearest
from tasks.user_code import call_user_code

SMALL_IMAGE = 64  # pixels; at most this, a stem that divides the size by 4 would leave too little


def build_classifier(
    name: str,
    num_classes: int,
    channels: int,
    image_size: int,
    pretrained: bool = False,
    small_stem: bool | None = None,
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """A timm network for images (channels, image_size, image_size), or what the user's "package.module:name" makes of `options` alone.

    Args:
        pretrained: start from timm's published weights (downloaded at first use).
        small_stem: for networks with a ResNet stem, a 3×3 convolution instead of 7×7 with stride 2, and no max-pool;
            None means: where the images are at most 64 pixels.
        options: further arguments of `timm.create_model`.

    Raises:
        UserError: no such network, arguments that it does not take, or weights that cannot be had.
    """
    if ":" in name:
        return call_user_code(name, "task.model.name", options)
    if name not in timm.list_models():
        raise UserError(f"task.model.name={name!r} is not a network of timm {timm.__version__}: {nearest(name, timm.list_models())}")
    arguments = {"num_classes": num_classes, "in_chans": channels, **(options or {})}
    try:
        model = timm.create_model(name, pretrained=pretrained, **arguments)
    except TypeError as error:
        raise UserError(f"task.model.options={dict(options or {})} do not fit {name}: {error}") from error
    except (RuntimeError, OSError) as error:
        if not pretrained:
            raise
        raise UserError(f"no pretrained weights for {name} ({error}); connect to a network once, or give task.model.pretrained=false") from error
    if image_size <= SMALL_IMAGE if small_stem is None else small_stem:
        shrink_stem(model)
    model.created_with = arguments  # so that an exported model can say how to load it
    return model


def shrink_stem(model: nn.Module) -> None:
    """The usual CIFAR form of a ResNet (He et al. 2016, §4.2); other networks are left as they are."""
    if isinstance(getattr(model, "maxpool", None), nn.MaxPool2d) and isinstance(getattr(model, "conv1", None), nn.Conv2d):
        old = model.conv1
        model.conv1 = nn.Conv2d(old.in_channels, old.out_channels, 3, padding=1, bias=False)
        model.maxpool = nn.Identity()
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")


def load_network(model: nn.Module, state: Mapping[str, Tensor], source: str) -> nn.Module:
    """Put a whole stored state dict into `model`, in eval mode.

    Raises:
        UserError: names or shapes that differ, the first of them named.
    """
    own = model.state_dict()
    wrong = [name for name in own.keys() | state.keys() if own.get(name, torch.empty(0)).shape != state.get(name, torch.empty(0)).shape]
    if missing := sorted(own.keys() ^ state.keys()) or sorted(wrong):
        name = missing[0]
        shapes = [tuple(side[name].shape) if name in side else "absent" for side in (state, own)]
        raise UserError(f"{source} does not fit this network: {name} is {shapes[0]} in the file and {shapes[1]} in the network ({len(missing)} entries differ); check task.model and task.data")
    model.load_state_dict(state)
    return model.eval()
