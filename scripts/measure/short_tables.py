"""Tables of measured results for pages: narrower than those of `compare_runs`, with intervals of the differences."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from core.evaluation.groups import Group
from core.evaluation.kinds import ENSEMBLE, GENERATED, ORIGINAL
from core.evaluation.scores import Metric
from core.report.cells import ABSENT, format_signed, markdown
from core.report.compared_runs import CLASS, ComparedRun, swept_settings
from core.report.comparison_table import setting_cell
from core.report.source_table import format_count, read_group
from core.runtime.errors import UserError
from scripts.measure.numbers import find_comparison, find_reference, format_estimate, format_known

FREE = (Group.ORIGINAL, Group.FREE)


class ShortColumn(NamedTuple):
    """A column of a short table over settings, read from all trainings of one setting."""

    label: str
    show: Callable[[Sequence[ComparedRun]], str]


def show_measure(source: str, key: str) -> Callable[[Sequence[ComparedRun]], str]:
    """Return a function that shows one measure of one source."""
    return lambda runs: format_known([run.rows.get(source, {}).get(key) for run in runs], key)


def show_lead(find: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Sequence[ComparedRun]], str]:
    """Return a function that shows the accuracy of p_diff minus that of a source, which `find` finds in a verdict."""

    def show(runs: Sequence[ComparedRun]) -> str:
        return format_lead([find(run.files.metrics["verdict"]) for run in runs])

    return show


def format_lead(comparisons: Sequence[dict[str, Any]]) -> str:
    """Return the accuracy of p_diff minus that of a source in points.

    The brackets hold the interval of the verdict. Several trainings give mean ± half-width of the 95% t-interval.
    """
    if len(comparisons) > 1:
        return format_estimate([row["accuracy_difference"] for row in comparisons], "accuracy", sign=True)
    (row,) = comparisons
    shown = format_signed(row["accuracy_difference"], 100, 2)
    if "accuracy_interval" not in row:
        return shown
    low, high = (format_signed(end, 100, 2) for end in row["accuracy_interval"])
    return f"{shown} [{low}, {high}]"


COLUMNS = (  # Accuracies are in percent, differences in points.
    ShortColumn("original", show_measure(ORIGINAL, "accuracy_mean")),
    ShortColumn("ensemble", show_measure(ENSEMBLE, "accuracy_mean")),
    ShortColumn("p_diff", show_measure(GENERATED, "accuracy_mean")),
    ShortColumn("minus original", show_lead(lambda verdict: find_comparison(verdict, ORIGINAL))),
    ShortColumn("minus reference", show_lead(find_reference)),
    ShortColumn("max IoU", show_measure(GENERATED, "max_iou_mean")),
)
ONE_TRAINING = (  # A table of repeated trainings has no space for the best model, and their references may differ.
    *COLUMNS[:3],
    ShortColumn("best", show_measure(GENERATED, "accuracy_best")),
    COLUMNS[3],
    ShortColumn("reference", lambda runs: str(find_reference(runs[0].files.metrics["verdict"])["baseline"])),
    *COLUMNS[4:],
)


def format_short_table(runs: Sequence[ComparedRun]) -> str:
    """Return one row per setting; runs that differ in their seeds only share a row."""
    names = swept_settings(runs)
    groups: dict[tuple[str, ...], list[ComparedRun]] = {}
    for run in runs:
        groups.setdefault((*run.group, *(repr(run.settings.get(name)) for name in names)), []).append(run)
    labels = [[setting_cell(name, group[0].settings.get(name)).text for name in names] for group in groups.values()]
    header = [shorten(name, names) for name in names]
    if len({run.group for run in runs}) > 1 or not names:
        header = ["network", *header]
        labels = [[group[0].group[1], *label] for group, label in zip(groups.values(), labels, strict=True)]
    return format_rows(header, labels, list(groups.values()))


def format_labeled_table(runs: Sequence[ComparedRun], labels: Sequence[str]) -> str:
    """Return one row per run with a given label in place of its settings."""
    if len(labels) != len(runs):
        raise UserError(f"{len(labels)} labels do not fit {len(runs)} runs: {', '.join(labels)}")
    return format_rows(["system"], [[label] for label in labels], [[run] for run in runs])


def format_rows(header: list[str], labels: Sequence[list[str]], groups: Sequence[Sequence[ComparedRun]]) -> str:
    """Return the table of groups of runs, each with its labels."""
    columns = ONE_TRAINING if all(len(group) == 1 for group in groups) else COLUMNS
    rows = [[*label, *(column.show(group) for column in columns)] for label, group in zip(labels, groups, strict=True)]
    return markdown([*header, *(column.label for column in columns)], rows)


def shorten(name: str, names: Sequence[str]) -> str:
    """Return the last word of a setting's name, or the last two if another setting ends with the same word."""
    parts = [other.removesuffix(CLASS).split(".") for other in names]
    words = name.removesuffix(CLASS).split(".")
    return words[-1] if sum(other[-1] == words[-1] for other in parts) == 1 else ".".join(words[-2:])


def format_chosen_sources(runs: Sequence[ComparedRun], chosen: Sequence[str]) -> str:
    """Return one row per chosen source, ordered by group, averaged over trainings, accuracies in percent.

    Free sources that are more accurate than p_diff are added, so that no table leaves out what p_diff does not beat.

    Raises:
        UserError: A run does not have a chosen source.
    """
    sources = [source for source in runs[0].rows if all(source in run.rows for run in runs)]
    if unknown := set(chosen) - set(sources):
        raise UserError(f"no source {min(unknown)}; expected any of {', '.join(sources)}")
    shown = {*chosen, *list_ahead(runs)}
    rows = [
        [source, group.value, *show_source(runs, source)]
        for group in Group
        for source in sources
        if source in shown and read_group(runs[0].rows[source]) is group
    ]
    return markdown(["source", "group", "mean %", "max IoU", "nearest", "gradients", "p_diff minus it"], rows)


def show_source(runs: Sequence[ComparedRun], source: str) -> list[str]:
    """Return the cells of one source, averaged over trainings."""
    rows = [run.rows[source] for run in runs]
    costs = [row["gradient_evaluations"] for row in rows if "gradient_evaluations" in row]
    return [
        *(format_known([row.get(key) for row in rows], key) for key in ("accuracy_mean", "max_iou_mean")),
        format_known([row.get("nearest_relative") for row in rows], "nearest_relative"),
        format_count(sum(costs) / len(costs)) if costs else ABSENT,
        ABSENT if source == GENERATED else format_lead([read_lead(run, source) for run in runs]),
    ]


def read_lead(run: ComparedRun, source: str) -> dict[str, Any]:
    """Return the comparison of p_diff with a source; it has no interval if the verdict leaves the source out."""
    for row in run.files.metrics["verdict"]["comparisons"]:
        if row["baseline"] == source:
            return dict(row)
    difference = run.rows[GENERATED]["accuracy_mean"] - run.rows[source]["accuracy_mean"]
    return {"accuracy_difference": difference}


def list_ahead(runs: Sequence[ComparedRun]) -> list[str]:
    """Return the free sources whose primary metric is better than that of p_diff, as the mean over all trainings.

    The best one comes first.
    """
    sign = Metric.read(runs[0].files.metrics).sign
    means = {
        source: sign * sum(run.rows[source]["accuracy_mean"] for run in runs) / len(runs)
        for source in runs[0].rows
        if all(source in run.rows for run in runs)
    }
    ahead = [
        source for source, mean in means.items() if read_group(runs[0].rows[source]) in FREE and mean > means[GENERATED]
    ]
    return sorted(ahead, key=lambda source: -means[source])
