"""The sources of weights as tables: a short one for a terminal, two for the report, and all measures as CSV.

Accuracies are shown in percent, other metrics as `MetricWords` says. Sources stand in groups: the originals, then
generated, free and trained models.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from core.evaluation.groups import Group, find_group
from core.report.cells import (
    ABSENT,
    Cell,
    Column,
    Table,
    format_csv,
    format_number,
    format_percent,
    markdown,
)
from core.report.glossary import explain_sources
from core.report.metric_words import ACCURACY_WORDS, MetricWords

Measures = Mapping[str, tuple[Column, Callable[[Any], str]]]  # key of a row of metrics.json -> (column, format)


def format_count(value: float) -> str:
    """Format a number of gradient evaluations: whole from 10 on, else with one decimal unless it is whole."""
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:,.1f}"


GROUP_COLUMN = Column(
    "group",
    "what the models cost once the checkpoints exist; generated: the training of the generator; free: no gradient; "
    "trained: gradients for each model",
)
HEADINGS = {Group.GENERATED: "generated:", Group.FREE: "free:", Group.TRAINED: "trained:"}  # in the terminal

# The measures whose keys start with "accuracy_" hold the primary metric. `choose_measures` words and formats them.
PERFORMANCE: Measures = {
    "n": (Column("n", "number of models"), str),
    "accuracy_mean": (Column("mean %", "mean test accuracy, higher is better"), format_percent),
    "accuracy_std": (Column("std %", "standard deviation of the test accuracy over the models"), format_percent),
    "accuracy_interval": (
        Column(
            "95% interval", "95% confidence interval of the mean, from a bootstrap over models and over test images"
        ),
        ACCURACY_WORDS.format_interval,
    ),
    "accuracy_best": (Column("best %", "highest test accuracy, which more models raise by luck alone"), format_percent),
    "accuracy_median": (Column("median %", "median test accuracy"), format_percent),
    "accuracy_worst": (Column("worst %", "lowest test accuracy"), format_percent),
    "loss_mean": (
        Column("loss", "mean negative log-likelihood on test in nats, lower is better"),
        partial(format_number, decimals=4),
    ),
    "ece_mean": (
        Column(
            "ECE %",
            "mean expected calibration error on test, the difference between confidence and accuracy; lower is better",
        ),
        format_percent,
    ),
    "gradient_evaluations": (
        Column(
            "gradients",
            "gradient evaluations (training steps) that one model costs, without those of the checkpoints; for p_diff, "
            "the steps of the generator's training divided by the number of generated models",
        ),
        format_count,
    ),
}
SIMILARITY: Measures = {
    "max_iou_mean": (
        Column(
            "max IoU",
            "share of wrong test images in common with the most similar original (both wrong / at least one wrong), "
            "mean over models; 1 means the same errors, and a much worse model has a low one even if it repeats them",
        ),
        format_number,
    ),
    "kappa_mean": (
        Column(
            "κ",
            "error consistency with the most similar original, mean over models: how much more often both are right or "
            "both wrong than by chance at their accuracies; 1 means the same errors, 0 independent ones (Geirhos et "
            "al. 2020)",
        ),
        format_number,
    ),
    "kappa_relative_mean": (
        Column(
            "κ rel.",
            "κ divided by the largest κ that the two accuracies allow; unlike max IoU and κ, it is not low only "
            "because a model is worse",
        ),
        format_number,
    ),
    "overlap_mean": (
        Column(
            "overlap",
            "share of the errors of the better of two models that the other one repeats (both wrong / fewer wrong), "
            "largest over the originals, mean over models; 1 means that all of them are repeated",
        ),
        format_number,
    ),
    "within_iou_mean": (
        Column(
            "IoU within",
            "share of wrong test images in common between two models of this source, mean over pairs; lower is more "
            "diverse",
        ),
        format_number,
    ),
    "min_l2_mean": (Column("min L2", "Euclidean distance to the nearest original, mean over models"), format_number),
    "min_l2_relative_mean": (
        Column("rel. L2", "min L2 divided by the mean distance between two originals"),
        format_number,
    ),
    "nearest_relative": (
        Column(
            "nearest",
            "distance to the nearest original divided by the median distance to all originals, median over models; "
            "near 0 for copies, near 1 for models that no single original explains",
        ),
        format_number,
    ),
    "copies": (
        Column(
            "copies %",
            "models whose nearest original is much nearer than that of new checkpoints, in weights or in errors; "
            "honest new checkpoints show up to 10%",
        ),
        format_percent,
    ),
    "near_copies": (
        Column("near %", "models closer to an original than any two originals are to each other"),
        format_percent,
    ),
    "deviation": (
        Column(
            "deviation",
            "distance from the mean of the originals, relative to that of the originals; near 0 for averages, near 1 "
            "for models that vary as checkpoints do",
        ),
        format_number,
    ),
    "outside_span": (
        Column(
            "outside %",
            "share of the squared deviation from the mean that lies outside the span of the originals, which no "
            "combination of originals can reach",
        ),
        format_percent,
    ),
    "behavior": (
        Column(
            "behave as",
            "copies: most models are copies; collapsed: the models are nearly one point, or repeat each other; "
            "averages: they lie much nearer to the mean of the originals than originals do; samples: none of these",
        ),
        str,
    ),
}
MEASURES = {**PERFORMANCE, **SIMILARITY}
PRIMARY = "accuracy_"  # prefix of the measures of the primary metric
SHORT: Mapping[str, str] = {  # the measures of the terminal beside n and mean ± std -> their headers
    "accuracy_interval": "95% interval",
    "max_iou_mean": "max IoU",
    "kappa_mean": "κ",
    "nearest_relative": "nearest",
    "gradient_evaluations": "gradients",
}


LEGEND = {  # words of the terminal -> their meaning
    "free": "made from the checkpoints without any training",
    "max IoU": "errors in common with the most similar original (1: the same errors; low: newer, or only worse)",
    "κ": "the same beyond chance (1: the same errors, 0: independent ones)",
    "nearest": "distance to the nearest original over the median one (near 0: a copy)",
    "gradients": "training steps that one model costs",
}


def choose_measures(metrics: Mapping[str, Any], measures: Measures) -> dict[str, tuple[Column, Callable[[Any], str]]]:
    """Return the measures that at least one source has, in the words and the format of the primary metric."""
    words, chosen = MetricWords.read(metrics), {}
    for key in choose_measured(metrics, list(measures)):
        column, show = measures[key]
        if key.startswith(PRIMARY):
            show = words.format_interval if key == "accuracy_interval" else words.format
            column = words.adapt_column(column)
        elif key != "ece_mean":  # calibration compares with accuracy, whatever the primary metric is
            column = Column(column.label, words.adapt(column.explanation))
        chosen[key] = (column, show)
    return chosen


def read_group(row: Mapping[str, Any]) -> Group:
    """Return the group of a row of metrics.json, inferred from the name of its source in files that do not hold it."""
    return Group(row["group"]) if "group" in row else find_group(row["source"])


def group_rows(metrics: Mapping[str, Any]) -> dict[Group, list[Mapping[str, Any]]]:
    """Return the rows of metrics.json by group, without empty groups."""
    groups = {group: [row for row in metrics["table"] if read_group(row) is group] for group in Group}
    return {group: rows for group, rows in groups.items() if rows}


def list_rows(metrics: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the rows of metrics.json in the order of their groups."""
    return [row for rows in group_rows(metrics).values() for row in rows]


def choose_measured(metrics: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
    """Return the keys that at least one source has."""
    return [key for key in keys if any(key in row for row in metrics["table"])]


def format_source_table(metrics: Mapping[str, Any]) -> str:
    """Return the short table for a terminal, with a heading above each group but the originals."""
    words, shown = MetricWords.read(metrics), choose_measures(metrics, {key: MEASURES[key] for key in SHORT})
    header = ["source", "n", "mean ± std", *(SHORT[key] for key in shown)]
    lines = []
    for group, rows in group_rows(metrics).items():
        if group in HEADINGS:
            lines.append([HEADINGS[group], *([""] * (len(header) - 1))])
        for row in rows:
            mean, std = row["accuracy_mean"], row.get("accuracy_std")
            spread = words.format(mean) if std is None else words.format_spread(mean, std)
            cells = [measure_cell(show, row.get(key)).text for key, (_, show) in shown.items()]
            lines.append([row["source"], str(row["n"]), spread, *cells])
    return markdown(header, lines)


def format_legend(metrics: Mapping[str, Any]) -> str:
    """Return one line for each word of the short table that is not plain."""
    table, metric = format_source_table(metrics), MetricWords.read(metrics).metric
    lines = [f"{metric.name}: {metric.note}"] if metric.note else []
    return "\n".join([*lines, *(f"{word}: {meaning}" for word, meaning in LEGEND.items() if word in table)])


def build_source_table(metrics: Mapping[str, Any]) -> Table:
    """Return one row per source with its group, its accuracy, its calibration and its cost."""
    rows = list_rows(metrics)
    words = MetricWords.read(metrics)
    terms = {source: words.adapt(text) for source, text in explain_sources(row["source"] for row in rows).items()}
    noted = {words.metric.name: words.metric.note} if words.metric.note else {}
    return build_table(metrics, rows, PERFORMANCE, noted | terms)


def build_similarity_table(metrics: Mapping[str, Any]) -> Table | None:
    """Return one row per source with its similarity to the originals in errors and in weights, if it was measured."""
    measured = dict(SIMILARITY)
    if choose_measured(metrics, ["copies"]):
        del measured["near_copies"]  # A run that measures copies against new checkpoints does not need the older count.
    rows = [row for row in list_rows(metrics) if measured.keys() & row.keys()]
    return build_table(metrics, rows, measured, {}) if rows else None


def build_table(
    metrics: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], measures: Measures, row_terms: Mapping[str, str]
) -> Table:
    """Return one row per source, with every one of these measures that at least one source has."""
    shown = choose_measures(metrics, measures)
    columns = [Column("source", "where the weights come from"), GROUP_COLUMN, *(column for column, _ in shown.values())]
    cells = [
        [
            Cell(row["source"], row["source"]),
            Cell(read_group(row).value, read_group(row).value),
            *(measure_cell(show, row.get(key)) for key, (_, show) in shown.items()),
        ]
        for row in rows
    ]
    return Table(columns, cells, row_terms)


def measure_cell(show: Callable[[Any], str], value: Any) -> Cell:
    """Return the cell of one measure of one source in this format. Intervals are sorted by their lower end."""
    if value is None:
        return Cell(ABSENT)
    return Cell(show(value), value[0] if isinstance(value, list) else value)


def format_source_csv(metrics: Mapping[str, Any]) -> str:
    """Return all measures at full precision, with metrics in percent in [0, 1] and empty cells for absent measures."""
    ends = {"accuracy_interval_low": 0, "accuracy_interval_high": 1}
    names = [name for key in MEASURES for name in (ends if key == "accuracy_interval" else [key])]
    rows = []
    for row in list_rows(metrics):
        flat = {
            **row,
            **{name: row["accuracy_interval"][index] for name, index in ends.items() if row.get("accuracy_interval")},
        }
        rows.append([row["source"], read_group(row).value, *(flat.get(name) for name in names)])
    header = ["source", "group", *names]
    used = [index for index in range(len(header)) if any(row[index] is not None for row in rows)]
    return format_csv([header[index] for index in used], [[row[index] for index in used] for row in rows])
