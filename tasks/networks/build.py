"""The builder of all networks: classifiers of timm, the mini networks, networks for other tasks, and the user's own."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import timm
import torch
from torch import Tensor, nn

from core.runtime.errors import UserError, suggest_names
from core.runtime.settings import build_section
from tasks.networks.adapters import LoraSpec, add_adapters
from tasks.networks.detectors import DETECTORS, build_detector
from tasks.networks.diffusion_unets import UNETS, build_unet
from tasks.networks.mini_networks import choose_patch_size
from tasks.networks.segmenters import SEGMENTERS, build_segmenter
from tasks.objectives.classification import Classification
from tasks.objectives.detection import Detection
from tasks.objectives.generation import Generation
from tasks.objectives.objective import Objective
from tasks.objectives.segmentation import Segmentation
from tasks.user_code import call_user_code

SMALL_IMAGE = 64  # pixels; a stem that divides the size by 4 leaves too little of images up to this size


@dataclass(frozen=True)
class ModelSpec:
    """The `task.model` section: the arguments of `build_network` that do not follow from the images."""

    name: str
    pretrained: bool = False
    small_stem: bool | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    lora: LoraSpec | None = None  # adapters, which only `build_from_spec` adds; older files lack them

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "ModelSpec":
        """Build the specification from the plain values of the `task.model` section."""
        return build_section(cls, "task.model", {**config, "lora": LoraSpec.from_config(config.get("lora"))})


# The networks for each objective but classification, whose networks are those of timm.
FAMILIES: dict[type[Objective], Collection[str]] = {
    Segmentation: SEGMENTERS,
    Detection: DETECTORS,
    Generation: UNETS,
}


def build_network(
    name: str,
    *,
    num_classes: int,
    channels: int,
    image_size: int,
    pretrained: bool = False,
    small_stem: bool | None = None,
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Return a classifier, or a network for another task if it has the name of one.

    `build_classifier` explains the arguments.
    """
    if name in SEGMENTERS:
        return build_segmenter(name, num_classes=num_classes, channels=channels, pretrained=pretrained, options=options)
    arguments: dict[str, Any] = {"num_classes": num_classes, "image_size": image_size, "pretrained": pretrained}
    if name in DETECTORS:
        return build_detector(name, **arguments, options=options)
    if name in UNETS:
        return build_unet(name, channels=channels, image_size=image_size, pretrained=pretrained, options=options)
    return build_classifier(name, **arguments, channels=channels, small_stem=small_stem, options=options)


def find_family(name: str) -> type[Objective]:
    """Return the objective that a network is made for by its name; names that are not in `FAMILIES` are classifiers."""
    return next((kind for kind, names in FAMILIES.items() if name in names), Classification)


def find_builder(name: str) -> Callable[..., nn.Module]:
    """Return the function that `build_network` calls for this name."""
    builders: dict[type[Objective], Callable[..., nn.Module]] = {
        Segmentation: build_segmenter,
        Detection: build_detector,
        Generation: build_unet,
    }
    return builders.get(find_family(name), build_classifier)


def require_family(name: str, objective: Objective, dataset: str) -> None:
    """Check that a network is made for the objective of a dataset; a network of the user's own may be for any.

    Args:
        name: The value of `task.model.name`.
        objective: The objective of the dataset.
        dataset: The value of `task.data.dataset`.

    Raises:
        UserError: The network and the dataset are for different tasks.
    """
    family = find_family(name)
    if ":" in name or isinstance(objective, family) or (family is Classification and not timm.is_model(name)):
        return
    expected = next((kind for kind in FAMILIES if isinstance(objective, kind)), Classification)
    made_for, needed = (kind.__name__.lower() for kind in (family, expected))
    fitting = ", ".join(FAMILIES[expected]) if expected in FAMILIES else "such as resnet18"
    raise UserError(
        f"task.model.name={name} is a network for {made_for}, but task.data.dataset={dataset} is for {needed}. Set "
        f"task.model.name=NAME to a network for {needed} ({fitting}), or task.data.dataset=NAME to a dataset for "
        f"{made_for}"
    )


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
        name: A network of timm, one of `tasks.networks.mini_networks`, or the user's "package.module:callable", which
            is called with `options` alone.
        num_classes: The number of classes.
        channels: C, the number of color channels.
        image_size: S, in pixels.
        pretrained: Start from timm's published weights (downloaded at first use).
        small_stem: Use a stem that keeps more of a small image: a 3×3 convolution without max-pool for a ResNet,
            smaller patches for a ViT or a ConvNeXt, no change for other networks. None uses it for images of at most 64
            pixels unless the weights are pretrained, because pretrained weights do not fit a changed stem.
        options: Further arguments of `timm.create_model`; they override the ones chosen from the image size.

    Raises:
        UserError: The network is unknown, does not take the options or the images, or its pretrained weights cannot be
            loaded.
    """
    if ":" in name:
        return call_user_code(name, "task.model.name", options)
    if name not in timm.list_models():
        known = [*timm.list_models(), *(other for names in FAMILIES.values() for other in names)]
        raise UserError(
            f"task.model.name={name} is not a network of timm {timm.__version__}. Set task.model.name=NAME to a "
            f"known network ({suggest_names(name, known)})"
        )
    small = image_size <= SMALL_IMAGE and not pretrained if small_stem is None else small_stem
    options, image_shape = dict(options or {}), (channels, image_size, image_size)
    arguments = {
        "num_classes": num_classes,
        "in_chans": channels,
        **choose_size_options(name, image_size, small),
        **options,
    }
    model = create_model(name, arguments, pretrained=pretrained, options=options, image_shape=image_shape)
    if small:
        shrink_stem(model)
    model.created_with = arguments  # type: ignore[assignment]  # a model card writes these arguments
    check_images(model, name, image_shape)
    return model.train()


def create_model(
    name: str,
    arguments: Mapping[str, Any],
    *,
    pretrained: bool,
    options: Mapping[str, Any],
    image_shape: tuple[int, int, int],
) -> nn.Module:
    """Return the network that timm creates, and turn timm's errors into a `UserError`.

    Args:
        name: A network of timm.
        arguments: All arguments of `timm.create_model`.
        pretrained: Start from timm's published weights.
        options: The arguments that the user set, named in the error.
        image_shape: The shape (C, S, S) of the images, named in the error.
    """
    try:
        return timm.create_model(name, pretrained=pretrained, **arguments)
    except TypeError as error:
        raise UserError(
            f"task.model.options={options} do not fit {name} ({error}). Remove or correct the option that the "
            "message in parentheses names"
        ) from error
    except Exception as error:  # the hub's client does not always raise an OSError without a network connection
        if not pretrained:
            raise UserError(describe_refusal(name, error, image_shape)) from error
        raise UserError(
            f"task.model.pretrained=true: no pretrained weights for {name} could be loaded ({error}). Connect to the "
            "internet, change task.model.options, or set task.model.pretrained=false"
        ) from error


def check_images(model: nn.Module, name: str, image_shape: tuple[int, int, int]) -> None:
    """Put `model` into eval mode and check that it takes an image (C, S, S); raises `UserError` if it does not."""
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, *image_shape))
    except Exception as error:  # networks fail at a size in different ways
        raise UserError(describe_refusal(name, error, image_shape)) from error


def build_from_spec(facts: Mapping[str, int], model: ModelSpec) -> nn.Module:
    """Return the network of a specification for the images that `facts` (from `TaskData.facts`) describes."""
    network = build_network(
        model.name,
        num_classes=facts["num_classes"],
        channels=facts["channels"],
        image_size=facts["image_size"],
        pretrained=model.pretrained,
        small_stem=model.small_stem,
        options=model.options,
    )
    return add_adapters(network, model.lora) if model.lora else network


def get_pretrained_colors(name: str) -> tuple[list[float], list[float]] | None:
    """Return the mean and std of each channel that normalized the training images of timm's pretrained weights.

    Return None if timm has no pretrained weights for the network.
    """
    published = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    return (list(published.mean), list(published.std)) if published else None


def describe_refusal(name: str, error: Exception, image_shape: tuple[int, int, int]) -> str:
    """Return the text of the error about a network that does not take images of this shape."""
    return (
        f"task.model.name={name} cannot take images of {'×'.join(map(str, image_shape))} "
        f"({str(error) or type(error).__name__}). "
        "Set a larger task.data.image_size, task.model.small_stem=true, or other task.model.options"
    )


def choose_size_options(name: str, image_size: int, small: bool) -> dict[str, int]:
    """Return the arguments of `timm.create_model` that fit a network to an image size.

    Args:
        name: A network of timm.
        image_size: S, in pixels.
        small: Choose the patches of the small stem.
    """
    options = {}
    architecture = timm.get_pretrained_cfg(name)
    if architecture and architecture.fixed_input_size and image_size != architecture.input_size[-1]:
        options["img_size"] = image_size
    family = timm.models.model_entrypoint(name).__module__.rpartition(".")[2]
    if small and family in ("vision_transformer", "deit"):
        options["patch_size"] = min(16, choose_patch_size(image_size))
    if small and family == "convnext":
        options["patch_size"] = 1 if image_size <= 32 else 2
    return options


def shrink_stem(model: nn.Module) -> None:
    """Give a ResNet its usual stem for CIFAR (He et al. 2016, §4.2); networks of other kinds do not change."""
    stem = getattr(model, "conv1", None)
    if isinstance(stem, nn.Conv2d) and isinstance(getattr(model, "maxpool", None), nn.MaxPool2d):
        model.conv1 = nn.Conv2d(stem.in_channels, stem.out_channels, 3, padding=1, bias=False)
        model.maxpool = nn.Identity()
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")


def load_network(model: nn.Module, state: Mapping[str, Tensor], source: str) -> nn.Module:
    """Load a whole stored state dict into `model`, and return it in eval mode.

    Args:
        model: The network.
        state: The state dict.
        source: The file of the state dict, named in the error.

    Raises:
        UserError: Entries of the file and of the network differ in name or shape.
    """
    expected = model.state_dict()
    one_sided = expected.keys() ^ state.keys()
    misshapen = [name for name in expected.keys() & state.keys() if expected[name].shape != state[name].shape]
    if differing := sorted(one_sided) or sorted(misshapen):
        name = differing[0]
        stored, built = (tuple(side[name].shape) if name in side else "absent" for side in (state, expected))
        raise UserError(
            f"{source} does not fit the network: {name} is {stored} in the file and {built} in the network "
            f"({len(differing)} entries differ). Set task.model and task.data to the values that the file was made with"
        )
    model.load_state_dict(state)
    return model.eval()
