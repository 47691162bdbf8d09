"""Recipes: the class and the plain arguments of a network, as files store them. Building one runs no code of a file."""

import re
from collections.abc import Mapping
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from core.diffusion.gaussian_diffusion import NoiseSchedule
from core.diffusion.sampling import Sampler
from core.runtime.errors import UserError

Recipe = Mapping[str, Any]  # {"_target_": class, argument: plain value, …}
# A file may come from anywhere, and without this pattern it could call any function of any installed package.
TRUSTED = re.compile(r"core\.networks\.\w+\.\w+|diffusers\.\w+Scheduler")


def check_recipe(recipe: Recipe) -> None:
    """Check that a recipe names a class of `TRUSTED` and has plain arguments only.

    `tasks.networks.recipes` follows another rule, because its files name no class: it refuses arguments that make timm
    read other files.

    Raises:
        UserError: The class is not trusted, or an argument is not plain.
    """
    target = recipe.get("_target_")
    if not TRUSTED.fullmatch(str(target)) or not all(map(is_plain, recipe.values())):
        raise UserError(
            f"_target_={target} is invalid: expected a class in core.networks or a scheduler of diffusers, with "
            "numbers, strings or lists as arguments. Put your own class into core/networks"
        )


def build(recipe: Recipe, **sizes: int) -> Any:
    """Check a recipe and build its object.

    Args:
        recipe: The class and its arguments.
        **sizes: Further arguments, which depend on the data.

    Raises:
        UserError: `check_recipe` refuses the recipe, the class does not exist, or it refuses its arguments.
    """
    check_recipe(recipe)
    try:
        return instantiate(recipe, **sizes, _recursive_=False)  # otherwise Hydra calls classes inside lists
    except InstantiationException as error:
        raise UserError(
            f"_target_={recipe['_target_']} cannot be built ({error.__cause__ or error}). Correct its arguments"
        ) from error


def build_sampler(recipe: Mapping[str, Any], schedule: NoiseSchedule) -> Sampler:
    """Build the sampler of a recipe with "scheduler", "num_steps" and optionally "clamp_samples".

    Raises:
        UserError: An entry is missing, or the sampler refuses its settings.
    """
    if missing := sorted({"scheduler", "num_steps"} - set(recipe)):
        raise UserError(
            f"system.sampler.{missing[0]} is missing. Set system/sampler to one of ddim, ddpm, dpm_solver, or remove "
            "the override that replaces the section system.sampler"
        )
    clamp = bool(recipe.get("clamp_samples"))
    return Sampler(build(recipe["scheduler"]), schedule, recipe["num_steps"], clamp=clamp)


def is_plain(value: Any) -> bool:
    """Return whether a value is a number, a string, None, or a list of plain values."""
    return all(map(is_plain, value)) if isinstance(value, (list, tuple)) else not isinstance(value, Mapping)
