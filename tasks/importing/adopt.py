"""Runs with imported checkpoints: the file names the network, but only the command line may name the user's code."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from core.checkpoints.checkpoint_set import CheckpointSet
from core.runtime.errors import UserError
from core.runtime.settings import MISSING, describe_differences, find_differences
from tasks.networks.build import ModelSpec
from tasks.networks.recipes import check_recipe
from tasks.specification import TaskSpec
from tasks.task import check_own_task, refuse_without_effect
from tasks.user_code import find_user_code

IMPORT_AGAIN = "Import the state dicts again with python -m scripts.import_checkpoints"


def is_imported(checkpoints: CheckpointSet) -> bool:
    """Return whether the checkpoints were imported from state dicts of another program."""
    return "imported" in checkpoints.settings


def open_checkpoints(task: TaskSpec, typed: Sequence[str] = ()) -> tuple[TaskSpec, CheckpointSet]:
    """Open the checkpoints file of `task`, check that its settings match, and return both.

    The returned task describes the checkpoints; for imported ones, its network and subset come from the file.

    Args:
        task: The task of the configuration.
        typed: The overrides on the command line, which must not contradict an imported file.

    Raises:
        UserError: The checkpoints were made with other settings.
    """
    if task.score_with:
        find_user_code(task.score_with, "task.score_with")  # before anything is trained
    checkpoints = CheckpointSet.load(Path(task.param.path))
    if is_imported(checkpoints):
        return adopt_imported(task, checkpoints, typed), checkpoints
    check_own_task(task, typed)
    checkpoints.require_settings(task.record())
    return (name_users_data(task) if task.score_with else task), checkpoints


def adopt_imported(task: TaskSpec, checkpoints: CheckpointSet, overrides: Sequence[str]) -> TaskSpec:
    """Return `task` with the network and the subset that an imported checkpoints file records.

    The user's code is never taken from the file. The command line has to name it again, so that a file cannot run code.

    Args:
        task: The task of the configuration.
        checkpoints: The imported checkpoints.
        overrides: The overrides on the command line, which must not contradict the file.

    Raises:
        UserError: The command line does not name the user's code, names other images or contradicts the file, or the
            record in the file is damaged.
    """
    source, recorded = str(checkpoints.path), checkpoints.settings["imported"]
    try:
        recipe, score_with, data = dict(recorded["model"]), recorded["score_with"], recorded["data"]
        param = {name: recorded["param"][name] for name in ("subset", "count")}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{source} has no valid record of the imported network ({type(error).__name__}: {error}). {IMPORT_AGAIN}"
        ) from error
    check_recipe(recipe, source)
    if score_with and not task.score_with:
        raise UserError(
            f"{source} was imported with --score-with {score_with}. This is code, so it only runs if the command line "
            f"names it. Set task.score_with={score_with}"
        )
    if not task.score_with and ":" in recipe["name"]:
        recipe["name"] = require_code(task, recipe["name"], source)
    parts = ("name", "pretrained", "small_stem", "options", "lora")
    model = ModelSpec.from_config({part: recipe[part] for part in parts if part in recipe})
    adopted = replace(task, model=model, param=replace(task.param, **param))
    check_overrides(overrides, adopted, task, source=source)
    if task.score_with:
        refuse_without_effect(task.score_with, overrides)
        return name_users_data(adopted)
    configured = task.record()["task"]["data"]
    if differing := find_differences({"task": {"data": data}}, {"task": {"data": configured}}):
        raise UserError(
            f"{source} was imported with other images ({describe_differences(differing)}). "
            f"Set {write_overrides(differing)}"
        )
    return adopted


def name_users_data(task: TaskSpec) -> TaskSpec:
    """Return `task` with the user's function as the name of its data, which reports show."""
    return replace(task, data=replace(task.data, dataset=str(task.score_with)))


def require_code(task: TaskSpec, recorded: str, source: str) -> str:
    """Return the user's callable that the command line names to build the network.

    Args:
        task: The task of the configuration.
        recorded: The callable that the checkpoints file names.
        source: The checkpoints file, named in the error.

    Raises:
        UserError: The command line names no callable.
    """
    if ":" not in task.model.name:
        raise UserError(
            f"{source} holds checkpoints of a network that {recorded} builds. This is code, so it only runs if the "
            f"command line names it. Set task.model.name={recorded}"
        )
    return task.model.name


def write_overrides(differing: Mapping[str, tuple[Any, Any]]) -> str:
    """Return the overrides that restore the stored values: "task.data.mean=[0.5] task.data.std=[0.25]".

    Args:
        differing: The pair (stored value, configured value) of each setting, from `find_differences`.
    """
    values = {name: "null" if stored in (None, MISSING) else stored for name, (stored, _) in differing.items()}
    return " ".join(f"{name}={value}".replace(" ", "") for name, value in values.items())


def check_overrides(overrides: Sequence[str], adopted: TaskSpec, task: TaskSpec, *, source: str) -> None:
    """Check that no override on the command line contradicts the checkpoints file.

    Args:
        overrides: The overrides on the command line.
        adopted: The task with the values of the file.
        task: The task of the configuration.
        source: The checkpoints file, named in the error.

    Raises:
        UserError: An override contradicts the file.
    """
    keys = [
        "task.model.name" if word.startswith("task/model=") else word.partition("=")[0].lstrip("+")
        for word in overrides
    ]
    keys = [key for key in keys if key.startswith(("task.model.", "task.param.subset", "task.param.count"))]
    there, here = ({"task": {"model": asdict(spec.model), "param": asdict(spec.param)}} for spec in (adopted, task))
    pairs = {key: (look_up(there, key), look_up(here, key)) for key in keys}
    if differing := {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}:
        raise UserError(
            f"{source} was imported with other settings ({describe_differences(differing)}). Remove these overrides, "
            "or import the state dicts again with them"
        )


def look_up(settings: Mapping[str, Any], name: str) -> Any:
    """Return the value at a dotted name; None if there is none."""
    value: Any = settings
    for key in name.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
