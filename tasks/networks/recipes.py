"""Building a network from the recipe in a file: a known name and plain arguments, so that no file can run code."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from core.checkpoints.subset import get_floating_entries
from core.runtime.errors import UserError
from tasks.networks.build import ModelSpec, build_classifier, build_from_spec, find_builder
from tasks.networks.published import INITIAL_WEIGHTS

# Arguments with these prefixes make timm read other files.
REFUSED = ("pretrained", "checkpoint_path", "cache_dir")


def check_recipe(recipe: Mapping[str, Any], source: str) -> None:
    """Check that a recipe has a name and plain arguments that only shape the network.

    Args:
        recipe: The `name`, `small_stem` and `options` of the network.
        source: The file of the recipe, named in the error.

    Raises:
        UserError: The recipe has no name, or an argument that is not plain or makes timm read other files.
    """
    options = recipe.get("options") or {}
    if not isinstance(recipe.get("name"), str) or not isinstance(options, Mapping):
        raise UserError(f"{source} does not name its network. Collect or import its checkpoints again")
    lora = recipe.get("lora") or {}
    if not isinstance(lora, Mapping) or not all(map(is_plain, lora.values())):
        raise UserError(f"{source} describes the adapters of its network as {lora!r}. Import its checkpoints again")
    for key, value in options.items():
        if not str(key).isidentifier() or str(key).startswith(REFUSED) or not is_plain(value):
            raise UserError(
                f"{source} sets the network's option {key}={value!r}, which is not allowed in a file. Collect or "
                "import its checkpoints again without this option"
            )


def get_shaping_options(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a recipe without those that only decide where training starts."""
    return {key: value for key, value in (recipe.get("options") or {}).items() if key != INITIAL_WEIGHTS}


def is_plain(value: Any) -> bool:
    """Return whether a value is a number, a string, a bool, None or a (nested) list of these."""
    if isinstance(value, (list, tuple)):
        return all(map(is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


def rebuild(
    recipe: Mapping[str, Any], facts: Mapping[str, int], *, state: Mapping[str, Tensor], source: str
) -> tuple[nn.Module, bool]:
    """Return the network of a recipe with new weights, without adapters, and whether it has the small stem.

    No weights are downloaded. If the recipe does not name the stem, choose the stem whose shapes differ from `state` in
    fewer entries.

    Args:
        recipe: The `name`, `small_stem` and `options` of the network.
        facts: The `num_classes`, `channels` and `image_size` of the images.
        state: A full state dict.
        source: The file of the recipe, named in the error.

    Raises:
        UserError: The recipe is not allowed, or the network cannot be built.
    """
    check_recipe(recipe, source)
    options = get_shaping_options(recipe)
    small_stem = recipe.get("small_stem")
    if find_builder(recipe["name"]) is not build_classifier:  # networks for other tasks have one stem
        return build_from_spec(facts, ModelSpec(recipe["name"], options=options)), False
    candidates: dict[int, tuple[nn.Module, bool]] = {}
    refusals: list[UserError] = []
    for small in (False, True) if small_stem is None else (small_stem,):
        try:
            model = build_from_spec(facts, ModelSpec(recipe["name"], small_stem=small, options=options))
        except UserError as error:  # the full stem of some networks shrinks small images to nothing
            refusals.append(error)
            continue
        shapes = {name: tensor.shape for name, tensor in get_floating_entries(model).items()}
        differing = sum(shapes[name] != state[name].shape for name in shapes.keys() & state.keys())
        candidates.setdefault(differing, (model, small))
    if not candidates:
        raise refusals[-1]
    return candidates[min(candidates)]
