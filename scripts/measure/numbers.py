"""Single numbers of measured runs, and their format: values, means over trainings, and differences."""

from collections.abc import Sequence
from typing import Any

from core.report.cells import ABSENT, format_signed
from core.report.compared_runs import ComparedRun
from core.report.metric_words import ACCURACY_WORDS, MetricWords
from core.report.repetitions import Estimate
from core.runtime.errors import UserError

# Measures whose names start like this are shown in percent. "accuracy" stands for any primary metric.
IN_PERCENT = ("accuracy", "ece", "near_copies", "copies", "outside_span")


def read_measure(run: ComparedRun, source: str, key: str) -> float:
    """Return one measure of one source; raise `UserError` if the run does not have it."""
    if key not in run.rows.get(source, {}):
        raise UserError(f"{run.files.path} has no {key} of {source}")
    return float(run.rows[source][key])


def choose_format(key: str, words: MetricWords = ACCURACY_WORDS, *values: float) -> tuple[float, int]:
    """Return the scale and the number of decimals in which a measure is shown.

    Args:
        key: The measure.
        words: The words of the primary metric.
        values: Values that are shown side by side, which decide the decimals of a metric that is not in percent.
    """
    if key.startswith("accuracy"):
        return words.scale, words.choose_decimals(*values)
    return (100, 2) if key.startswith(IN_PERCENT) else (1, 3)


def estimate_trainings(values: Sequence[float]) -> Estimate:
    """Return the mean over several trainings; raise `UserError` for one, whose spread is unknown."""
    estimate = Estimate.from_trainings(values)
    if estimate is None:
        raise UserError("there is one training, so the spread of trainings is unknown")
    return estimate


def format_estimate(
    values: Sequence[float], key: str, words: MetricWords = ACCURACY_WORDS, *, sign: bool = False
) -> str:
    """Return one value, or the mean ± half-width of the 95% t-interval of several."""
    estimate = Estimate.from_trainings(values)
    scale, decimals = choose_format(key, words, *(values if estimate is None else estimate))
    if estimate is not None:
        return estimate.format(scale, decimals, sign=sign)
    return format_signed(values[0], scale, decimals) if sign else f"{scale * values[0]:.{decimals}f}"


def format_known(values: Sequence[float | None], key: str) -> str:
    """Return the estimate of several values, or a dash if one of them is missing."""
    known = [value for value in values if value is not None]
    return format_estimate(known, key) if len(known) == len(values) else ABSENT


def find_reference(verdict: dict[str, Any]) -> dict[str, Any]:
    """Return the comparison with the best free source; in earlier results, with the most accurate average."""
    return find_comparison(verdict, verdict.get("reference") or verdict["best_average"])


def find_comparison(verdict: dict[str, Any], baseline: str) -> dict[str, Any]:
    """Return the comparison with one source."""
    (row,) = (row for row in verdict["comparisons"] if row["baseline"] == baseline)
    return row
