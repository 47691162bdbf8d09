"""Networks from a recipe that a file recorded: timm's and plain arguments, so that no file makes code run."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from core.checkpoints.subset import floating_entries
from core.runtime.errors import UserError
from tasks.networks.build import ModelSpec, build_for

REFUSED = ("pretrained", "checkpoint_path", "cache_dir")  # beginnings of arguments with which timm reads other files


def check_recipe(recipe: Mapping[str, Any], source: str) -> None:
    """Check that a recipe has a name, and arguments that are plain and only shape the network.

    Raises:
        UserError: it has not.
    """
    options = recipe.get("options") or {}
    if not isinstance(recipe.get("name"), str) or not isinstance(options, Mapping):
        raise UserError(f"{source} does not say which network it is of; import or collect again")
    for key, value in options.items():
        if not str(key).isidentifier() or str(key).startswith(REFUSED) or not is_plain(value):
            raise UserError(
                f"{source} asks for a network with {key}={value!r}, which a file may not; "
                "import or collect again without it"
            )


def is_plain(value: Any) -> bool:
    """Return whether a value is a number, a string, None or a list of such."""
    if isinstance(value, (list, tuple)):
        return all(map(is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


def rebuild(
    recipe: Mapping[str, Any], facts: Mapping[str, int], *, state: Mapping[str, Tensor], source: str
) -> tuple[nn.Module, bool]:
    """Return the timm network of a recipe with the stem that `state` has, and whether that is the small one.

    Where neither stem fits `state`, it has the one that differs in fewer shapes. The weights are new.

    Args:
        recipe: name, small_stem and options.
        facts: num_classes, channels and image_size of the images.
        state: a full state dict.
        source: the file of the recipe, for messages.

    Raises:
        UserError: the recipe may not be built, or cannot be.
    """
    check_recipe(recipe, source)
    small_stem = recipe.get("small_stem")
    candidates: dict[int, tuple[nn.Module, bool]] = {}
    refusal: UserError | None = None
    for small in (False, True) if small_stem is None else (small_stem,):
        try:
            model = build_for(facts, ModelSpec(recipe["name"], small_stem=small, options=recipe.get("options") or {}))
        except UserError as error:  # of a network whose own stem leaves nothing of small images
            refusal = error
            continue
        shapes = {name: tensor.shape for name, tensor in floating_entries(model).items()}
        differing = sum(shapes[name] != state[name].shape for name in shapes.keys() & state.keys())
        candidates.setdefault(differing, (model, small))
    if not candidates:
        raise refusal or UserError(f"{source} records no network")
    return candidates[min(candidates)]
