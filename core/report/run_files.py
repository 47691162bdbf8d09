"""Everything a report reads from a run's folder; what cannot be read is named, and the rest is still there."""

import logging
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from core.evaluation.scores import ScoreTable
from core.runtime.artifacts import read_json
from core.runtime.errors import UserError
from core.runtime.run_directory import RunDirectory

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trajectories:
    """Validation accuracy of T models along the reverse diffusion."""

    timesteps_S: np.ndarray  # as recorded, from noise to weights
    accuracy_TS: np.ndarray  # in [0, 1]


@dataclass(frozen=True)
class TrainingHistory:
    """The subset at the start of classifier training and after each epoch, E times in all."""

    history_ED: np.ndarray
    names: list[str]  # of the parameter tensors, in the order in which they are flattened
    sizes: list[int]


@dataclass
class RunFiles:
    """The contents of one run's folder."""

    path: Path
    metrics: dict[str, Any]
    config: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, ScoreTable] = field(default_factory=dict)
    trajectories: Trajectories | None = None
    training_history: TrainingHistory | None = None
    problems: list[str] = field(default_factory=list)

    @property
    def dataset(self) -> str | None:
        """The data set's name, where config.yaml is there."""
        return self._setting("data", "dataset")

    @property
    def model(self) -> str | None:
        """The classifier's name, where config.yaml is there."""
        return self._setting("model", "name")

    @property
    def title(self) -> str:
        """The run in a few words: data set, model, K; the folder's name where they are unknown."""
        k = self._setting("param", "k")
        known = [str(word) for word in (self.dataset, self.model, k and f"K = {k}") if word]
        return ", ".join(known) if self.dataset else self.path.resolve().name

    def _setting(self, *names: str) -> Any:
        value: Any = self.config.get("task")
        for name in names:
            value = value.get(name) if isinstance(value, dict) else None
        return value


def read_metrics(path: Path) -> dict[str, Any]:
    """metrics.json of a run.

    Raises:
        UserError: there is none, or it is not what train_p_diff.py writes.
    """
    if not path.is_file():
        raise UserError(
            f"there is no {path.name} in {path.parent}; point to the output_dir of a run of train_p_diff.py that was scored"
        )
    metrics = read_json(path)
    try:
        if not metrics["table"]:
            raise KeyError("no source was scored")
        for row in metrics["table"]:
            _ = (
                row["source"],
                row["n"],
                row["accuracy_mean"],
                row["accuracy_best"],
                row["accuracy_median"],
                row["accuracy_worst"],
            )
        _ = metrics["paper_protocol"].items(), metrics["held_out_protocol"].items()
    except (TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{path} is not the metrics of a run ({type(error).__name__}: {error}); run train_p_diff.py mode=test again"
        ) from error
    return metrics


def read_config(path: Path) -> dict[str, Any]:
    """config.yaml of a run as plain values.

    Raises:
        UserError: missing, or no YAML mapping.
    """
    try:
        config = OmegaConf.to_container(OmegaConf.load(path))
    except Exception as error:  # of the file system, of OmegaConf, and of the YAML parser below it
        raise UserError(f"cannot read {path} ({' '.join(str(error).split())})") from error
    if not isinstance(config, dict):
        raise UserError(f"cannot read {path} (it holds no settings)")
    return config


def read_run(path: Path) -> RunFiles:
    """Read a run's folder; only metrics.json has to be there.

    Raises:
        UserError: metrics.json is missing or damaged.
    """
    layout = RunDirectory(path)
    run = RunFiles(path, read_metrics(layout.metrics))
    run.config = attempt(run, lambda: read_config(path / "config.yaml")) or {}
    run.provenance = attempt(run, lambda: read_mapping(path / "provenance.json")) or {}
    for row in run.metrics["table"]:
        table = attempt(run, lambda source=row["source"]: read_scores(layout.scores(source)))
        if table is not None:
            run.tables[row["source"]] = table
    drop_what_does_not_fit(run)
    run.trajectories = attempt(run, lambda: read_trajectories(layout.trajectories))
    run.training_history = attempt(run, lambda: read_history(layout.training_history))
    return run


def attempt(run: RunFiles, read: Any) -> Any:
    """What `read` returns; if that fails, None, and the reason among the run's problems."""
    try:
        return read()
    except UserError as error:
        run.problems.append(str(error).replace(f"{run.path}/", ""))  # the page may be read where that folder is not
        log.warning("%s", error)
        return None


def read_mapping(path: Path) -> dict[str, Any]:
    """A JSON object."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"cannot read {path}: it holds no object")
    return content


def read_scores(path: Path) -> ScoreTable:
    """One source's table; it must hold scores on test."""
    if not path.is_file():
        raise UserError(f"there is no {path}; the source {path.stem} is missing from the figures")
    table = ScoreTable.load(path)
    if "test" not in table.scores:
        raise UserError(f"{path} holds no scores on test; the source {path.stem} is missing from the figures")
    return table


def drop_what_does_not_fit(run: RunFiles) -> None:
    """Tables that cannot be compared with the others (other D or N: files of another run) are named and left out."""
    reference = run.tables.get("original")
    if reference is None:
        return
    for source, table in list(run.tables.items()):
        if (shape(table)) != shape(reference):
            attempt(run, lambda: refuse(source, shape(table), shape(reference)))
            del run.tables[source]


def shape(table: ScoreTable) -> tuple[int, int | None]:
    """(D, N) of a table; N is None for tasks without a right and wrong per image."""
    wrong_MN = table.scores["test"].wrong_MN
    return table.vectors_MD.shape[1], None if wrong_MN is None else wrong_MN.shape[1]


def refuse(source: str, found: tuple[int, int | None], expected: tuple[int, int | None]) -> None:
    raise UserError(
        f"the scores of {source} have (D, N) = {found}, those of original {expected}: {source} is missing from the figures"
    )


def read_arrays(path: Path, names: tuple[str, ...]) -> list[np.ndarray]:
    """The named arrays of an npz file."""
    if not path.is_file():
        raise UserError(f"there is no {path}; its figure is left out")
    try:
        with np.load(path, allow_pickle=False) as file:
            return [file[name] for name in names]
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(f"cannot read {path} ({error}); its figure is left out") from error


def read_trajectories(path: Path) -> Trajectories:
    """Accuracy along the reverse diffusion."""
    timesteps_S, accuracy_TS = read_arrays(path, ("timesteps_S", "accuracy_TS"))
    if accuracy_TS.ndim != 2 or timesteps_S.shape != accuracy_TS.shape[1:] or accuracy_TS.size == 0:
        raise UserError(
            f"{path} holds timesteps {timesteps_S.shape} and accuracies {accuracy_TS.shape}, which do not fit; its figure is left out"
        )
    return Trajectories(timesteps_S, accuracy_TS)


def read_history(path: Path) -> TrainingHistory:
    """The subset through classifier training."""
    history_ED, names, sizes = read_arrays(path, ("history_ED", "names", "sizes"))
    if history_ED.ndim != 2 or len(names) != len(sizes) or sizes.sum() != history_ED.shape[1] or history_ED.size == 0:
        raise UserError(
            f"{path} holds a history {history_ED.shape} for tensors of sizes {sizes.tolist()}, which do not fit; its figure is left out"
        )
    return TrainingHistory(history_ED, [str(name) for name in names], [int(size) for size in sizes])
