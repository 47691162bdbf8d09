"""Means over trainings with t-intervals, from runs that differ in their seeds only."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from scipy.stats import t as student_t

from core.evaluation.kinds import GENERATED
from core.report.cells import ABSENT, Cell, Column, Table
from core.report.compared_runs import CLASS, ComparedRun, swept_settings
from core.report.comparison_table import SIMILARITIES, choose_columns, read_numbers, read_words, setting_cell
from core.report.metric_words import MetricWords

CONFIDENCE = 0.95
MIN_TRAININGS = 2  # A spread cannot be estimated from one training.


class Estimate(NamedTuple):
    """A mean over trainings, and half the width of its 95% t-interval."""

    mean: float
    half_width: float

    @classmethod
    def from_trainings(cls, values: Sequence[float | None]) -> Self | None:
        """Return mean ± t(0.975, n − 1) · s / √n of one value per training, with the sample standard deviation s.

        Returns:
            The estimate, or None if a value is missing or there are fewer than two trainings.
        """
        known = np.array([value for value in values if value is not None], dtype=float)
        if len(known) < max(MIN_TRAININGS, len(values)):
            return None
        quantile = student_t.ppf((1 + CONFIDENCE) / 2, len(known) - 1)
        return cls(float(known.mean()), float(quantile * known.std(ddof=1) / np.sqrt(len(known))))

    def format(self, scale: float = 1, decimals: int = 3, *, sign: bool = False) -> str:
        """Return the mean and the half-width as text, the mean with its sign if asked for."""
        mean = f"{scale * self.mean:{'+' if sign else ''}.{decimals}f}".replace("-", "−")
        return f"{mean} ± {scale * self.half_width:.{decimals}f}"


def group_repetitions(runs: Sequence[ComparedRun]) -> list[list[ComparedRun]]:
    """Return the groups of at least two runs that differ in their seeds only, in the order of their first run."""
    names = swept_settings(runs)
    groups: dict[tuple[object, ...], list[ComparedRun]] = {}
    for run in runs:
        groups.setdefault((run.group, *(repr(run.settings.get(name)) for name in names)), []).append(run)
    return [group for group in groups.values() if len(group) >= MIN_TRAININGS]


def build_repetition_table(runs: Sequence[ComparedRun]) -> Table | None:
    """Return one row per group of repeated runs with the columns of the comparison; None without repetitions."""
    groups, swept, measured = group_repetitions(runs), swept_settings(runs), choose_columns(runs)
    words = read_words(runs)
    if not groups:
        return None
    columns = [
        Column("dataset, model"),
        *(Column(name.removesuffix(CLASS)) for name in swept),
        Column("trainings", "number of runs, each with seeds of its own"),
        *measured.values(),
    ]
    rows = []
    for group in groups:
        label, numbers = ", ".join(group[0].group), [read_numbers(run) for run in group]
        cells = [Cell(label, label), *(setting_cell(name, group[0].settings.get(name)) for name in swept)]
        cells.append(Cell(str(len(group)), len(group)))
        for name in measured:
            shown_in, sign = None if name.endswith(SIMILARITIES) else words, name.endswith("difference")
            cells.append(estimate_cell([row[name] for row in numbers], shown_in, sign=sign))
        rows.append(cells)
    return Table(columns, rows)


def estimate_cell(values: Sequence[float | None], words: MetricWords | None, *, sign: bool = False) -> Cell:
    """Return the cell of an estimate from one value per training, a dash if there is none.

    Args:
        values: One value per training.
        words: The words for the primary metric; None for a similarity.
        sign: Whether positive means have a sign.
    """
    estimate = Estimate.from_trainings(values)
    if estimate is None:
        return Cell(ABSENT)
    scale, decimals = (1, 3) if words is None else (words.scale, words.choose_decimals(*estimate))
    return Cell(estimate.format(scale, decimals, sign=sign), estimate.mean)


class Measure(NamedTuple):
    """A column of the table over sources."""

    column: Column
    read: Callable[[Mapping[str, Any], str], float | None]  # (rows of one run by source, source) -> value
    is_primary: bool = False  # whether it holds the primary metric
    sign: bool = False


def read_difference(rows: Mapping[str, Any], source: str) -> float | None:
    """Return the mean of the primary metric of p_diff on test minus that of another source."""
    if source == GENERATED or GENERATED not in rows:
        return None
    return rows[GENERATED]["accuracy_mean"] - rows[source]["accuracy_mean"]


MEASURES = (
    Measure(Column("mean %"), lambda rows, source: rows[source].get("accuracy_mean"), is_primary=True),
    Measure(Column("best %"), lambda rows, source: rows[source].get("accuracy_best"), is_primary=True),
    Measure(Column("max IoU"), lambda rows, source: rows[source].get("max_iou_mean")),
    Measure(Column("κ rel."), lambda rows, source: rows[source].get("kappa_relative_mean")),
    Measure(Column("nearest"), lambda rows, source: rows[source].get("nearest_relative")),
    Measure(Column("IoU within"), lambda rows, source: rows[source].get("within_iou_mean")),
    Measure(Column("p_diff minus it, points"), read_difference, is_primary=True, sign=True),
)


def build_repeated_source_table(runs: Sequence[ComparedRun]) -> Table:
    """Return one row per source of repeated runs, each measure as its mean over the trainings with a t-interval.

    The last column is the difference between p_diff and the source within each training, so accuracy that differs
    between trainings does not widen its interval.
    """
    sources = [source for source in runs[0].rows if all(source in run.rows for run in runs)]
    measures = [
        measure
        for measure in MEASURES
        if any(measure.read(run.rows, source) is not None for run in runs for source in sources)
    ]
    words = read_words(runs)
    rows = [
        [
            Cell(source, source),
            *(
                estimate_cell([read(run.rows, source) for run in runs], words if is_primary else None, sign=sign)
                for _, read, is_primary, sign in measures
            ),
        ]
        for source in sources
    ]
    return Table([Column("source"), *(words.adapt_column(measure.column) for measure in measures)], rows)
