"""Runs that differ in their seeds only: the mean over trainings, with a t-interval."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Self

import numpy as np
from scipy.stats import t as student_t

from core.evaluation.kinds import GENERATED
from core.report.cells import ABSENT, Cell, Column, Table
from core.report.comparison import CLASS, COLUMNS, Compared, numbers_of, setting_cell, swept

CONFIDENCE = 0.95
FEWEST = 2  # trainings from which a spread can be estimated


class Estimate(NamedTuple):
    """A mean over trainings and half the width of its 95% t-interval."""

    mean: float
    half_width: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float | None]) -> Self | None:
        """Return the estimate from one value per training, or None where a training lacks it or there are fewer than 2.

        The interval is mean ± t(0.975, n − 1) · s / √n, with the sample standard deviation s.
        """
        known = np.array([value for value in values if value is not None], dtype=float)
        if len(known) < max(FEWEST, len(values)):
            return None
        quantile = student_t.ppf((1 + CONFIDENCE) / 2, len(known) - 1)
        return cls(float(known.mean()), float(quantile * known.std(ddof=1) / np.sqrt(len(known))), len(known))

    def cell(self, scale: float = 1, decimals: int = 3, *, sign: bool = False) -> Cell:
        """Show the mean with its half-width."""
        shown = f"{scale * self.mean:{'+' if sign else ''}.{decimals}f}".replace("-", "−")
        return Cell(f"{shown} ± {scale * self.half_width:.{decimals}f}", self.mean)


def repeated(compared: Sequence[Compared]) -> list[list[Compared]]:
    """Return the groups of at least two runs that differ in their seeds only, in the order of their first run."""
    names, found = swept(compared), dict[tuple[object, ...], list[Compared]]()
    for run in compared:
        found.setdefault((run.group, *(repr(run.settings.get(name)) for name in names)), []).append(run)
    return [runs for runs in found.values() if len(runs) >= FEWEST]


def repetition_table(compared: Sequence[Compared]) -> Table | None:
    """Return one row per group of repeated runs, with the columns of the comparison; None without repetitions."""
    groups, apart = repeated(compared), swept(compared)
    if not groups:
        return None
    columns = [
        Column("data set, model"),
        *(Column(name.removesuffix(CLASS)) for name in apart),
        Column("trainings", "How many runs, each with seeds of its own"),
        *(COLUMNS[name] for name in numbers_of(compared[0])),
    ]
    rows = []
    for runs in groups:
        label, numbers = ", ".join(runs[0].group), [numbers_of(run) for run in runs]
        rows.append(
            [
                Cell(label, label),
                *(setting_cell(name, runs[0].settings.get(name)) for name in apart),
                Cell(str(len(runs)), len(runs)),
                *(
                    estimate_cell([row[name] for row in numbers], *((1, 3) if name.endswith("iou") else (100, 2)))
                    for name in numbers[0]
                ),
            ]
        )
    return Table(columns, rows)


def estimate_cell(values: Sequence[float | None], scale: float, decimals: int, *, sign: bool = False) -> Cell:
    """Show the estimate from these values, or a dash."""
    estimate = Estimate.of(values)
    return Cell(ABSENT) if estimate is None else estimate.cell(scale, decimals, sign=sign)


Pick = Callable[[Mapping[str, Mapping[str, float]], str], float | None]  # (rows of one run by source, source) -> value


def source_repetition_table(runs: Sequence[Compared]) -> Table:
    """Return one row per source of repeated runs, with its measures averaged over the trainings.

    The last column is the difference between p_diff and the source within each training, which leaves out what
    changes from training to training.
    """
    measures: dict[str, tuple[Column, Pick, float, int, bool]] = {
        "mean": (Column("mean %", "Mean test accuracy over the models"), measure("accuracy_mean"), 100, 2, False),
        "best": (Column("best %", "Best test accuracy over the models"), measure("accuracy_best"), 100, 2, False),
        "max_iou": (Column("max IoU", "Similarity to the nearest original"), measure("max_iou_mean"), 1, 3, False),
        "within": (Column("IoU within", "Similarity of two models"), measure("within_iou_mean"), 1, 3, False),
        "difference": (
            Column("p_diff minus it, points", "Difference of the mean test accuracies within each training"),
            difference,
            100,
            2,
            True,
        ),
    }
    sources = [source for source in runs[0].rows if all(source in run.rows for run in runs)]
    rows = [
        [
            Cell(source, source),
            *(
                estimate_cell([pick(run.rows, source) for run in runs], scale, decimals, sign=sign)
                for _, pick, scale, decimals, sign in measures.values()
            ),
        ]
        for source in sources
    ]
    return Table([Column("source"), *(column for column, *_ in measures.values())], rows)


def measure(key: str) -> Pick:
    """Return the function that picks one measure of a source."""
    return lambda rows, source: rows[source].get(key)


def difference(rows: Mapping[str, Mapping[str, float]], source: str) -> float | None:
    """Return the mean test accuracy of p_diff minus that of another source, in [-1, 1]."""
    if source == GENERATED or GENERATED not in rows:
        return None
    return rows[GENERATED]["accuracy_mean"] - rows[source]["accuracy_mean"]
