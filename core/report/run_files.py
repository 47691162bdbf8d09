"""The files of a run's folder as typed values. A file that cannot be read is reported, and the report uses the rest."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from omegaconf import OmegaConf

from core.evaluation.kinds import ORIGINAL
from core.evaluation.scores import ScoreTable
from core.evaluation.trajectories import Trajectories
from core.evaluation.verdict import Verdict
from core.runtime.arrays import open_arrays
from core.runtime.artifacts import read_json
from core.runtime.errors import UserError
from core.runtime.run_directory import RunDirectory

log = logging.getLogger(__name__)
Content = TypeVar("Content")
ROW_KEYS = ("source", "n", "accuracy_mean", "accuracy_best", "accuracy_median", "accuracy_worst")
PROTOCOL_KEYS = ("paper_protocol", "held_out_protocol")


@dataclass(frozen=True)
class TrainingHistory:
    """Values of the parameter subset at the start of classifier training and after each epoch (E, D)."""

    history_ED: np.ndarray
    names: list[str]  # names of the parameter tensors, in the order in which they are flattened
    sizes: list[int]


@dataclass
class RunFiles:
    """The contents of one run's folder."""

    path: Path
    metrics: dict[str, Any]
    verdict: Verdict | None = None  # the verdict in `metrics`; None if it is missing or cannot be read
    config: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, ScoreTable] = field(default_factory=dict)
    trajectories: Trajectories | None = None
    training_history: TrainingHistory | None = None
    problems: list[str] = field(default_factory=list)

    def note(self, problem: str) -> None:
        """Report a problem in the log and on the page. The page shows paths relative to the run's folder."""
        self.problems.append(problem.replace(f"{self.path}/", ""))
        log.warning("%s", problem)

    def attempt(self, read: Callable[[Path], Content], path: Path) -> Content | None:
        """Return `read(path)`; if that fails with a UserError, note the problem and return None."""
        try:
            return read(path)
        except UserError as error:
            self.note(str(error))
            return None

    @property
    def dataset(self) -> str | None:
        """Name of the dataset; None if config.yaml is missing."""
        return self.task_setting("data", "dataset")

    @property
    def model(self) -> str | None:
        """Name of the classifier; None if config.yaml is missing."""
        return self.task_setting("model", "name")

    @property
    def title(self) -> str:
        """Dataset, model and K in a few words; the folder's name if config.yaml is missing."""
        k = self.task_setting("param", "k")
        known = [str(word) for word in (self.dataset, self.model, k and f"K = {k}") if word]
        return ", ".join(known) if self.dataset else self.path.resolve().name

    def task_setting(self, *names: str) -> Any:
        """Return one setting of the `task` section, or None if it is missing."""
        return self.setting("task", *names)

    def setting(self, *names: str) -> Any:
        """Return one setting of config.yaml, or None if it is missing."""
        value: Any = self.config
        for name in names:
            value = value.get(name) if isinstance(value, dict) else None
        return value


def read_metrics(path: Path) -> dict[str, Any]:
    """Read metrics.json of a run.

    Raises:
        UserError: The file is missing, damaged, or lacks a part that the report needs.
    """
    if not path.is_file():
        raise UserError(
            f"{path.name} not found in {path.parent}. "
            "Use the output_dir of a scored run of train_p_diff.py (mode=train or mode=test)"
        )
    metrics = read_json(path)
    if (defect := find_defect(metrics)) is not None:
        raise UserError(f"{path} is invalid: {defect}. Run train_p_diff.py mode=test to write it again")
    return metrics


def find_defect(metrics: Any) -> str | None:
    """Return the first defect of the content of a metrics.json, or None if it is valid."""
    if not isinstance(metrics, dict) or not isinstance(metrics.get("table"), list) or not metrics["table"]:
        return "the list `table` of sources is missing"
    for row in metrics["table"]:
        if not isinstance(row, dict) or not set(ROW_KEYS) <= row.keys():
            return f"each row of `table` must hold {', '.join(ROW_KEYS)}"
    missing = [key for key in PROTOCOL_KEYS if not isinstance(metrics.get(key), dict)]
    return f"{missing[0]} is missing" if missing else None


def read_verdict(metrics: dict[str, Any], path: Path) -> Verdict | None:
    """Return the verdict of metrics.json, or None if it has no verdict.

    Raises:
        UserError: The verdict has an unexpected format.
    """
    if "verdict" not in metrics:
        return None
    try:
        return Verdict.from_json(metrics["verdict"])
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise UserError(
            f"cannot read the verdict in {path} ({type(error).__name__}: {error}). "
            "Run train_p_diff.py mode=test to write it again"
        ) from error


def read_config(path: Path) -> dict[str, Any]:
    """Read config.yaml of a run as plain values.

    Raises:
        UserError: The file is missing or does not hold a YAML mapping.
    """
    try:
        config = OmegaConf.to_container(OmegaConf.load(path))
    except Exception as error:  # The file system, OmegaConf and its YAML parser each raise their own errors.
        raise UserError(f"cannot read the settings in {path} ({' '.join(str(error).split())})") from error
    if not isinstance(config, dict):
        raise UserError(f"cannot read the settings in {path} (expected a YAML mapping)")
    return {str(name): value for name, value in config.items()}


def read_run(path: Path) -> RunFiles:
    """Read a run's folder. Only metrics.json is required; problems with the other files are noted in the result.

    Raises:
        UserError: `metrics.json` is missing or damaged.
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
    drop_mismatched_tables(run)
    # A VAE has no reverse diffusion, and imported checkpoints have no training history, so these files may be absent.
    if layout.trajectories.is_file() or run.setting("system", "sampler"):
        run.trajectories = run.attempt(Trajectories.load, layout.trajectories)
    if layout.training_history.is_file():
        run.training_history = run.attempt(read_history, layout.training_history)
    return run


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        UserError: The file cannot be read or holds something else.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"cannot read {path}: expected a JSON object")
    return content


def read_scores(path: Path) -> ScoreTable:
    """Read the scores of one source.

    Raises:
        UserError: The file is missing or damaged, or holds no scores on test images.
    """
    if not path.is_file():
        raise UserError(f"{path} not found, so {path.stem} is missing from the figures")
    table = ScoreTable.load(path)
    if "test" not in table.scores:
        raise UserError(f"{path} holds no scores on test images, so {path.stem} is missing from the figures")
    return table


def drop_mismatched_tables(run: RunFiles) -> None:
    """Drop tables whose D or N differ from the table of original, because they belong to another run; note each one."""
    reference = run.tables.get(ORIGINAL)
    if reference is None:
        return
    for source, table in list(run.tables.items()):
        if table_shape(table) != table_shape(reference):
            run.note(
                f"the scores of {source} have (D, N) = {table_shape(table)}, but the scores of original have "
                f"{table_shape(reference)}, so {source} is missing from the figures"
            )
            del run.tables[source]


def table_shape(table: ScoreTable) -> tuple[int, int | None]:
    """Return (D, N) of a table; N is None if the table records nothing of single images."""
    return table.vectors_MD.shape[1], table.scores["test"].num_items


def read_history(path: Path) -> TrainingHistory:
    """Read the values of the parameter subset during classifier training.

    Raises:
        UserError: The file is missing or damaged, or its arrays do not fit each other.
    """
    with open_arrays(
        path, content="training history", advice="Run train_p_diff.py mode=test to write it again"
    ) as file:
        history_ED, names, sizes = file["history_ED"], file["names"], file["sizes"]
    if history_ED.ndim != 2 or len(names) != len(sizes) or sizes.sum() != history_ED.shape[1] or history_ED.size == 0:
        raise UserError(
            f"{path} holds a history of shape {history_ED.shape} for tensors of sizes {sizes.tolist()}. "
            "Run train_p_diff.py mode=test to write it again"
        )
    return TrainingHistory(history_ED, [str(name) for name in names], [int(size) for size in sizes])
