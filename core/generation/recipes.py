"""How a file says what its tensors fill: the name of a class and plain arguments, so that no file makes code run."""

import re
from collections.abc import Mapping
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from core.runtime.errors import UserError

Recipe = Mapping[str, Any]  # {"_target_": class, argument: plain value, …}
# A file may come from elsewhere, so it may only name these; anything else could be any function of any package.
TRUSTED = re.compile(r"core\.networks\.\w+\.\w+|diffusers\.\w+Scheduler")


def check_recipe(recipe: Recipe) -> None:
    """Raise `UserError` unless a recipe names a class that a file may name, and plain arguments.

    `tasks.networks.recipes` has a rule of its own: there a file names no class at all, and what must be kept out are
    arguments that make timm read other files.
    """
    target = recipe.get("_target_")
    if not TRUSTED.fullmatch(str(target)) or not all(map(is_plain, recipe.values())):
        raise UserError(
            f"{target} is not a network of core.networks or a scheduler of diffusers with plain arguments; "
            "put your own class into core/networks"
        )


def build(recipe: Recipe, **sizes: int) -> Any:
    """Instantiate a checked recipe.

    Raises:
        UserError: The recipe may not be built, or there is no such class, or the class refuses the arguments.
    """
    check_recipe(recipe)
    try:
        return instantiate(recipe, **sizes, _recursive_=False)  # else Hydra would also call whatever a list in it names
    except InstantiationException as error:
        raise UserError(f"{recipe['_target_']} cannot be made: {error.__cause__ or error}") from error


def is_plain(value: Any) -> bool:
    """Return whether a value is a number, a string or a list of such."""
    return all(map(is_plain, value)) if isinstance(value, (list, tuple)) else not isinstance(value, Mapping)
