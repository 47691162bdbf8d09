"""Everything a report reads from a run's folder; what cannot be read is named, and the rest is still there."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from omegaconf import OmegaConf

from core.evaluation.arrays import reading_arrays
from core.evaluation.kinds import ORIGINAL
from core.evaluation.scores import ScoreTable
from core.evaluation.trajectories import Trajectories
from core.evaluation.verdict import Verdict
from core.runtime.artifacts import read_json
from core.runtime.errors import UserError
from core.runtime.run_directory import RunDirectory

log = logging.getLogger(__name__)
Content = TypeVar("Content")
ROW_KEYS = ("source", "n", "accuracy_mean", "accuracy_best", "accuracy_median", "accuracy_worst")
PROTOCOL_KEYS = ("paper_protocol", "held_out_protocol")


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
    verdict: Verdict | None = None  # parsed from the metrics
    config: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, ScoreTable] = field(default_factory=dict)
    trajectories: Trajectories | None = None
    training_history: TrainingHistory | None = None
    problems: list[str] = field(default_factory=list)

    def note(self, problem: str) -> None:
        """Name a problem in the log and on the page, which may be read where the run's folder is not."""
        self.problems.append(problem.replace(f"{self.path}/", ""))
        log.warning("%s", problem)

    def attempt(self, read: Callable[[Path], Content], path: Path) -> Content | None:
        """Return what `read` makes of a file, or note why it cannot be read."""
        try:
            return read(path)
        except UserError as error:
            self.note(str(error))
            return None

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
    """Read metrics.json of a run.

    Raises:
        UserError: there is none, or it is not what train_p_diff.py writes.
    """
    if not path.is_file():
        raise UserError(
            f"there is no {path.name} in {path.parent}; "
            "point to the output_dir of a run of train_p_diff.py that was scored"
        )
    metrics = read_json(path)
    if (lacking := lacking_in(metrics)) is not None:
        raise UserError(f"{path} is not the metrics of a run ({lacking}); run train_p_diff.py mode=test again")
    return metrics


def lacking_in(metrics: Any) -> str | None:
    """Name the first thing that keeps the content from being the metrics of a run; None where nothing does."""
    if not isinstance(metrics, dict) or not isinstance(metrics.get("table"), list) or not metrics["table"]:
        return "it holds no table of sources"
    for row in metrics["table"]:
        if not isinstance(row, dict) or not set(ROW_KEYS) <= row.keys():
            return f"a row of its table lacks one of {', '.join(ROW_KEYS)}"
    without = [key for key in PROTOCOL_KEYS if not isinstance(metrics.get(key), dict)]
    return f"it holds no {without[0]}" if without else None


def read_verdict(metrics: dict[str, Any], path: Path) -> Verdict | None:
    """Parse the verdict of metrics.json; None where the run was scored without one.

    Raises:
        UserError: it is not of today's format.
    """
    if "verdict" not in metrics:
        return None
    try:
        return Verdict.from_json(metrics["verdict"])
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise UserError(
            f"cannot read the verdict in {path} ({type(error).__name__}: {error}); run train_p_diff.py mode=test again"
        ) from error


def read_config(path: Path) -> dict[str, Any]:
    """Read config.yaml of a run as plain values.

    Raises:
        UserError: missing, or no YAML mapping.
    """
    try:
        config = OmegaConf.to_container(OmegaConf.load(path))
    except Exception as error:  # of the file system, of OmegaConf, and of the YAML parser below it
        raise UserError(f"cannot read {path} ({' '.join(str(error).split())})") from error
    if not isinstance(config, dict):
        raise UserError(f"cannot read {path} (it holds no settings)")
    return {str(name): value for name, value in config.items()}


def read_run(path: Path) -> RunFiles:
    """Read a run's folder; only metrics.json has to be there.

    Raises:
        UserError: metrics.json is missing or damaged.
    """
    layout = RunDirectory(path)
    run = RunFiles(path, read_metrics(layout.metrics))
    run.verdict = run.attempt(lambda file: read_verdict(run.metrics, file), layout.metrics)
    run.config = run.attempt(read_config, layout.config) or {}
    run.provenance = run.attempt(read_mapping, layout.provenance) or {}
    for row in run.metrics["table"]:
        table = run.attempt(read_scores, layout.scores(row["source"]))
        if table is not None:
            run.tables[row["source"]] = table
    drop_what_does_not_fit(run)
    run.trajectories = run.attempt(Trajectories.load, layout.trajectories)
    run.training_history = run.attempt(read_history, layout.training_history)
    return run


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a JSON object."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"cannot read {path}: it holds no object")
    return content


def read_scores(path: Path) -> ScoreTable:
    """Read one source's table; it must hold scores on test."""
    if not path.is_file():
        raise UserError(f"there is no {path}; the source {path.stem} is missing from the figures")
    table = ScoreTable.load(path)
    if "test" not in table.scores:
        raise UserError(f"{path} holds no scores on test; the source {path.stem} is missing from the figures")
    return table


def drop_what_does_not_fit(run: RunFiles) -> None:
    """Leave out, and name, tables that cannot be compared with the others: other D or N tell files of another run."""
    reference = run.tables.get(ORIGINAL)
    if reference is None:
        return
    for source, table in list(run.tables.items()):
        if shape(table) != shape(reference):
            run.note(
                f"the scores of {source} have (D, N) = {shape(table)}, those of original {shape(reference)}: "
                f"{source} is missing from the figures"
            )
            del run.tables[source]


def shape(table: ScoreTable) -> tuple[int, int | None]:
    """Return (D, N) of a table; N is None for tasks without a right and wrong per image."""
    wrong_MN = table.scores["test"].wrong_MN
    return table.vectors_MD.shape[1], None if wrong_MN is None else wrong_MN.shape[1]


def read_history(path: Path) -> TrainingHistory:
    """Read the subset through classifier training."""
    with reading_arrays(path, content="training history", advice="run train_p_diff.py mode=test again") as file:
        history_ED, names, sizes = file["history_ED"], file["names"], file["sizes"]
    if history_ED.ndim != 2 or len(names) != len(sizes) or sizes.sum() != history_ED.shape[1] or history_ED.size == 0:
        raise UserError(
            f"the history {history_ED.shape} in {path} does not fit its tensors of sizes {sizes.tolist()}; "
            "run train_p_diff.py mode=test again"
        )
    return TrainingHistory(history_ED, [str(name) for name in names], [int(size) for size in sizes])
