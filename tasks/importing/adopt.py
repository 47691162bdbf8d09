"""Runs over imported checkpoints: the network comes from the file's recipe, code of the user's own only from the command line."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from core.checkpoints.checkpoint_set import CheckpointSet
from core.runtime.errors import UserError
from core.runtime.settings import describe, differences
from tasks.collecting.collection import recorded_settings
from tasks.networks.recipes import check_recipe


def is_imported(checkpoints: CheckpointSet) -> bool:
    """Whether the checkpoints come from state dicts of another program."""
    return "imported" in checkpoints.settings


def adopted(cfg: DictConfig, checkpoints: CheckpointSet, typed: Sequence[str]) -> DictConfig:
    """`cfg` with the network and the subset that imported checkpoints are of; they have no training to be compared.

    What is the user's code is never taken from the file: it has to be said again on the command line.

    Args:
        typed: the overrides on the command line, which may not contradict the file.

    Raises:
        UserError: code that must be named, other images, an override that contradicts the file, or a damaged record.
    """
    source, task, recorded = str(checkpoints.path), cfg.task, checkpoints.settings["imported"]
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
            f"{source} was imported with --score-with {score_with}, which is code and runs only if you say so: give task.score_with={score_with}"
        )
    if not task.score_with and ":" in recipe["name"]:
        if ":" not in task.model.name:
            raise UserError(
                f"{source} is of a network that {recipe['name']} makes, which is code and runs only if you say so: give task.model.name={recipe['name']}"
            )
        recipe["name"] = task.model.name
    check_typed(typed, {"model": recipe, "param": param}, task, source)
    asked = recorded_settings(task)["task"]["data"]
    if not task.score_with and (differing := differences({"task": {"data": data}}, {"task": {"data": asked}})):
        raise UserError(f"{source} was imported for other images ({describe(differing)}); give the same task.data")

    cfg = cfg.copy()
    OmegaConf.set_struct(cfg, False)
    cfg.task.model = recipe
    cfg.task.param = {**cfg.task.param, **param}
    if task.score_with:
        cfg.task.data.dataset = task.score_with
    return cfg


def check_typed(typed: Sequence[str], recorded: Mapping[str, Any], task: DictConfig, source: str) -> None:
    """Raises `UserError` if an override on the command line contradicts what the file records."""
    keys = [
        "task.model.name" if word.startswith("task/model=") else word.partition("=")[0].lstrip("+") for word in typed
    ]
    keys = [key for key in keys if key.startswith(("task.model.", "task.param.subset", "task.param.count"))]
    there, here = (
        OmegaConf.create({"task": content}) for content in (recorded, {"model": task.model, "param": task.param})
    )
    pairs = {key: (OmegaConf.select(there, key), OmegaConf.select(here, key)) for key in keys}
    if differing := {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}:
        raise UserError(
            f"{source} was imported otherwise ({describe(differing)}); leave these overrides away, or import again"
        )


def open_checkpoints(cfg: DictConfig, typed: Sequence[str] = ()) -> tuple[DictConfig, CheckpointSet]:
    """The checkpoints that the configuration names, checked to be those that it describes, and the configuration that fits them.

    Raises:
        UserError: they were made with other settings.
    """
    checkpoints = CheckpointSet.load(Path(cfg.task.param.path))
    if is_imported(checkpoints):
        return adopted(cfg, checkpoints, typed), checkpoints
    checkpoints.require(recorded_settings(cfg.task))
    return cfg, checkpoints
