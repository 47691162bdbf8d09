"""What the builders of torchvision's networks share: published weights, and errors about options in one sentence."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torchvision.models import ResNet50_Weights, WeightsEnum

from core.runtime.errors import UserError, suggest_names

INITIAL_WEIGHTS = "weights_backbone"  # the option that decides where training starts, but not the network's shape


def build_with_options(
    make: Callable[..., nn.Module], name: str, *arguments: Any, options: Mapping[str, Any]
) -> nn.Module:
    """Return what `make` builds, in training mode.

    Args:
        make: The function that builds the network.
        name: The value of `task.model.name`, named in the error.
        arguments: The arguments that do not come from the user.
        options: The value of `task.model.options`.

    Raises:
        UserError: The network does not take the options or the images, or its weights cannot be loaded.
    """
    try:
        return make(*arguments, **options).train()
    except UserError:
        raise
    except Exception as error:  # torchvision and timm refuse options in different ways
        raise UserError(
            f"task.model.options={dict(options)} do not fit {name} ({error}). Remove or correct the option that the "
            "message in parentheses names"
        ) from error


def require_resnet50_weights(name: str | None) -> None:
    """Check the value of the option `INITIAL_WEIGHTS`; None stands for no weights.

    Raises:
        UserError: torchvision has no such weights of ResNet-50.
    """
    if name is not None and name not in ResNet50_Weights.__members__:
        option = f"task.model.options.{INITIAL_WEIGHTS}"
        known = suggest_names(str(name), ResNet50_Weights.__members__)
        raise UserError(f"{option}={name} is unknown. Set {option} to weights of torchvision ({known})")


def download_resnet50(name: str) -> Mapping[str, Tensor]:
    """Return torchvision's weights of ResNet-50 with this name.

    Raises:
        UserError: The weights are unknown or cannot be loaded.
    """
    require_resnet50_weights(name)
    option = f"task.model.options.{INITIAL_WEIGHTS}"
    return download(ResNet50_Weights[name], f"{option}={name}", f"{option}=null")


def download(
    weights: WeightsEnum, option: str = "task.model.pretrained=true", fix: str = "task.model.pretrained=false"
) -> Mapping[str, Tensor]:
    """Return a published state dict of torchvision.

    Args:
        weights: The weights.
        option: The option that asks for them, named in the error.
        fix: The option that does without them, named in the error.

    Raises:
        UserError: The weights cannot be loaded.
    """
    try:
        return weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except Exception as error:  # a failed download is not always an OSError
        raise UserError(
            f"{option}: the pretrained weights {weights.url.rpartition('/')[2]} could not be loaded ({error}). Connect "
            f"to the internet, or set {fix}"
        ) from error
