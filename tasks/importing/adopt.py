"""Runs over imported checkpoints: the file says which network they are of, only the command line names user code."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from core.checkpoints.checkpoint_set import CheckpointSet
from core.runtime.errors import UserError
from core.runtime.settings import describe, differences
from tasks.networks.build import ModelSpec
from tasks.networks.recipes import check_recipe
from tasks.specification import TaskSpec


def is_imported(checkpoints: CheckpointSet) -> bool:
    """Return whether the checkpoints come from state dicts of another program."""
    return "imported" in checkpoints.settings


def open_checkpoints(task: TaskSpec, typed: Sequence[str] = ()) -> tuple[TaskSpec, CheckpointSet]:
    """Return the checkpoints that `task` names, checked to be those that it describes, and the task that they are of.

    Args:
        task: as it was configured.
        typed: the overrides on the command line, which may not contradict an imported file.

    Raises:
        UserError: the checkpoints were made with other settings.
    """
    checkpoints = CheckpointSet.load(Path(task.param.path))
    if is_imported(checkpoints):
        return adopt_imported(task, checkpoints, typed), checkpoints
    checkpoints.require(task.record())
    return task, checkpoints


def adopt_imported(task: TaskSpec, checkpoints: CheckpointSet, typed: Sequence[str]) -> TaskSpec:
    """Return `task` with the network and the subset of imported checkpoints, which have no training to be compared.

    The user's code is never taken from the file: it has to be said again on the command line.

    Args:
        task: as it was configured.
        checkpoints: the imported ones.
        typed: the overrides on the command line, which may not contradict the file.

    Raises:
        UserError: code that must be named, other images, an override that contradicts the file, or a damaged record.
    """
    source, recorded = str(checkpoints.path), checkpoints.settings["imported"]
    try:
        recipe, score_with, data = dict(recorded["model"]), recorded["score_with"], recorded["data"]
        param = {name: recorded["param"][name] for name in ("subset", "count")}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{source} does not say what it was imported as ({type(error).__name__}: {error}); import again"
        ) from error
    check_recipe(recipe, source)
    if score_with and not task.score_with:
        raise UserError(
            f"{source} was imported with --score-with {score_with}, which is code and runs only if you say so: "
            f"give task.score_with={score_with}"
        )
    if not task.score_with and ":" in recipe["name"]:
        recipe["name"] = name_code(task, recipe["name"], source)
    model = ModelSpec(**{key: recipe[key] for key in ("name", "pretrained", "small_stem", "options") if key in recipe})
    adopted = replace(task, model=model, param=replace(task.param, **param))
    check_typed(typed, adopted, task, source=source)
    if task.score_with:
        return replace(adopted, data=replace(task.data, dataset=task.score_with))
    asked = task.record()["task"]["data"]
    if differing := differences({"task": {"data": data}}, {"task": {"data": asked}}):
        raise UserError(f"{source} was imported for other images ({describe(differing)}); give the same task.data")
    return adopted


def name_code(task: TaskSpec, recorded: str, source: str) -> str:
    """Return the user's callable that the command line names for a network which the file says is made by one.

    Raises:
        UserError: it names none.
    """
    if ":" not in task.model.name:
        raise UserError(
            f"{source} is of a network that {recorded} makes, which is code and runs only if you say so: "
            f"give task.model.name={recorded}"
        )
    return task.model.name


def check_typed(typed: Sequence[str], adopted: TaskSpec, task: TaskSpec, *, source: str) -> None:
    """Compare the overrides on the command line with what the file records.

    Raises:
        UserError: one contradicts it.
    """
    keys = [
        "task.model.name" if word.startswith("task/model=") else word.partition("=")[0].lstrip("+") for word in typed
    ]
    keys = [key for key in keys if key.startswith(("task.model.", "task.param.subset", "task.param.count"))]
    there, here = ({"task": {"model": asdict(spec.model), "param": asdict(spec.param)}} for spec in (adopted, task))
    pairs = {key: (look_up(there, key), look_up(here, key)) for key in keys}
    if differing := {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}:
        raise UserError(
            f"{source} was imported otherwise ({describe(differing)}); remove these overrides, or import again"
        )


def look_up(settings: Mapping[str, Any], name: str) -> Any:
    """Return the value at a dotted name; None where there is none."""
    value: Any = settings
    for key in name.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
