"""metrics.json as tables: the two protocols, selection, combination and the verdict's comparisons.

Accuracies are shown in percent, other metrics as `MetricWords` says. A block that metrics.json lacks gives no table.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core.evaluation.verdict import UNADJUSTED, Comparison, Difference, Verdict
from core.report.cells import (
    ABSENT,
    Cell,
    Column,
    Table,
    format_number,
    format_percent,
    format_signed,
    markdown,
)
from core.report.glossary import explain_sources
from core.report.metric_words import MetricWords
from core.report.phrases import format_level
from core.report.source_table import (
    GROUP_COLUMN,
    build_similarity_table,
    build_source_table,
    format_legend,
    format_source_csv,
    format_source_table,
)
from core.report.worth_table import build_worth_table
from core.runtime.artifacts import replace_atomically

PROTOCOLS = {"paper_protocol": "paper: best on test", "held_out_protocol": "held out: chosen on validation"}
PROTOCOL_TERMS = {
    PROTOCOLS["paper_protocol"]: "the model with the best test accuracy. It is optimistic, because the test images "
    "that measure the model also chose it",
    PROTOCOLS["held_out_protocol"]: "the model with the lowest loss on validation images, which are held out from "
    "training and test; its test accuracy is what a user can expect",
}

CHOICES = {  # `chosen_by` of a selection -> (label, explanation)
    "val_accuracy": ("val accuracy", "the model with the highest accuracy on validation images"),
    "val_loss": ("val loss", "the model with the lowest loss on validation images"),
    "train_loss": (
        "train loss",
        "the model with the lowest loss on training images, for users without held-out images",
    ),
    "test_accuracy": ("test accuracy", "the model with the highest accuracy on the test images, which is optimistic"),
}
METHODS = {  # `method` of a combination -> explanation
    "one model": "the model with the lowest loss on validation images",
    "soft vote": "the mean of the predicted probabilities of all models, which costs one forward pass for each model",
    "greedy soup": "one model: weights averaged one by one for as long as the validation accuracy does not fall",
    "mean of weights": "one model: the mean of the weights of all checkpoints (the source ensemble)",
}
EXPECTATION_COLUMNS = (
    Column("expected %", "mean test accuracy of the choice over resampled validation images and models"),
    Column("95% interval", "95% interval of the choice over the same resampling, which shows how much is luck"),
)
OUTCOME_LABEL = "outcome"


def format_protocol_table(metrics: Mapping[str, Any]) -> str:
    """Return the paper's three columns under both protocols for a terminal, test accuracy in percent."""
    sources, words = list(metrics["paper_protocol"]), MetricWords.read(metrics)
    return markdown(
        ["protocol", *sources],
        [[label, *(words.format(metrics[key].get(source)) for source in sources)] for key, label in PROTOCOLS.items()],
    )


def read_sentences(metrics: Mapping[str, Any]) -> list[str]:
    """Return the sentences that were stored when the run was scored, or an empty list if there is no verdict."""
    return metrics.get("verdict", {}).get("sentences", [])


def format_closing_words(metrics: Mapping[str, Any]) -> str:
    """Return what a run prints at its end: two tables, the headline of the verdict, and its caution if any."""
    caution = metrics["verdict"].get("caution")
    said = [read_sentences(metrics)[0], *([caution] if caution else [])]
    sources = f"{format_source_table(metrics)}\n{format_legend(metrics)}"
    return "\n\n".join([sources, format_protocol_table(metrics), "\n".join(said)])


def build_protocol_table(metrics: Mapping[str, Any]) -> Table | None:
    """Return the paper's three columns under each protocol that metrics.json holds."""
    known = {label: metrics[key] for key, label in PROTOCOLS.items() if metrics.get(key)}
    sources, words = (
        list(dict.fromkeys(source for values in known.values() for source in values)),
        MetricWords.read(metrics),
    )
    rows = [
        [Cell(label, label), *(Cell(words.format(values.get(source)), values.get(source)) for source in sources)]
        for label, values in known.items()
    ]
    explanations = explain_sources(sources)
    columns = [
        Column("protocol", words.adapt("rule that chooses the one model whose test accuracy is shown")),
        *(Column(words.label(source), explanations.get(source, "")) for source in sources),
    ]
    return Table(columns, rows, {label: words.adapt(PROTOCOL_TERMS[label]) for label in known}) if rows else None


def build_comparison_table(verdict: Verdict | None) -> Table | None:
    """Return p_diff minus each baseline, with the intervals that decide the outcome."""
    if verdict is None or not verdict.comparisons:
        return None
    words = MetricWords(verdict.metric)
    has_kappa = any(row.kappa_relative is not None for row in verdict.comparisons)  # not in files of earlier versions
    rows = [
        [
            Cell(row.baseline.source, row.baseline.source),
            Cell(verdict.groups[row.baseline.source].value, verdict.groups[row.baseline.source].value),
            Cell(row.outcome.value, row.outcome.value),
            *accuracy_cells(row.accuracy, words),
            *max_iou_cells(row),
            *(difference_cells(row.kappa_relative) if has_kappa else []),
        ]
        for row in verdict.comparisons
    ]
    return Table(list_comparison_columns(verdict, has_kappa), rows)


def list_comparison_columns(verdict: Verdict, has_kappa: bool) -> list[Column]:
    """Return the columns of the table of comparisons, in which each difference stands beside its interval."""
    words = MetricWords(verdict.metric)
    kappa = Column(
        "κ rel.",
        words.adapt(
            "mean of κ over its largest value at the two accuracies, p_diff minus the source; the source with the "
            "lower max IoU is newer only if this is measurably lower, too"
        ),
    )
    return [
        Column("p_diff against"),
        GROUP_COLUMN,
        Column(
            OUTCOME_LABEL,
            f"dominates: better in {words.name} or newness and not worse in the other; is dominated: the reverse; "
            "trade-off: better in one and worse in the other; tie: no measurable difference in either",
        ),
        words.adapt_column(
            Column(
                "accuracy, points",
                "mean test accuracy of p_diff minus the source's, in percentage points; above 0 is better",
            )
        ),
        Column(
            "interval",
            "interval of the difference in the column to the left, which is measurable if the interval excludes 0; "
            + describe_levels(verdict),
        ),
        Column(
            "max IoU",
            "mean max IoU of p_diff minus the source's; below 0 is newer, except in parentheses, where "
            f"{words.name} may be the reason or the source with the lower max IoU copies",
        ),
        Column("interval"),
        *([kappa, Column("interval")] if has_kappa else []),
    ]


def describe_levels(verdict: Verdict) -> str:
    """Say at which level the intervals of the comparisons are."""
    level = format_level(verdict.interval_level)
    if verdict.interval_level == UNADJUSTED:
        return f"its level is {level}"
    return (
        f"its level is {level}, which allows for the number of comparisons (Benjamini and Hochberg 1995), except for "
        f"{verdict.metric.name} against {verdict.reference}, where it is {format_level(UNADJUSTED)}"
    )


def max_iou_cells(row: Comparison) -> list[Cell]:
    """Return the cells of the difference in max IoU, in parentheses if it is measurable but does not show newness."""
    value, interval = difference_cells(row.max_iou)
    if row.max_iou is not None and row.newness is not row.max_iou.decision:
        value = Cell(f"({value.text})", value.value)
    return [value, interval]


def accuracy_cells(difference: Difference, words: MetricWords) -> list[Cell]:
    """Return the cell of a difference in the primary metric and the cell of its interval, with signs."""
    ends = difference.interval or ()
    shown = Cell(words.format_difference(difference.value, *ends), difference.value)
    if difference.interval is None:
        return [shown, Cell(ABSENT)]
    return [shown, Cell(" to ".join(words.format_ends(ends, difference.value)), difference.interval[0])]


def difference_cells(difference: Difference | None) -> list[Cell]:
    """Return the cell of a difference of similarities and the cell of its interval, all numbers with their sign."""
    if difference is None:
        return [Cell(ABSENT), Cell(ABSENT)]
    shown = Cell(format_signed(difference.value), difference.value)
    if difference.interval is None:
        return [shown, Cell(ABSENT)]
    return [shown, Cell(format_signed_interval(difference.interval), difference.interval[0])]


def format_signed_interval(ends: Sequence[float]) -> str:
    """Return both ends with their signs."""
    low, high = map(format_signed, ends)
    return f"{low} to {high}"


def build_selection_table(metrics: Mapping[str, Any]) -> Table | None:
    """Return the test accuracy of the model that each rule chooses."""
    selected, words = metrics.get("selection", []), MetricWords.read(metrics)
    is_expected = any("expected_accuracy" in row for row in selected)
    rows = [
        [
            Cell(row["source"], row["source"]),
            Cell(words.adapt(row["chosen_by"].replace("_", " ")), row["chosen_by"]),
            Cell(words.format(row.get("test_accuracy")), row.get("test_accuracy")),
            *(expectation_cells(row, words) if is_expected else []),
            Cell("yes" if row.get("uses_test") else "no", str(bool(row.get("uses_test")))),
        ]
        for row in selected
    ]
    columns = [
        Column("source"),
        Column("chosen by"),
        words.adapt_column(
            Column("test accuracy %", "test accuracy of the chosen model, which is one pick and depends on luck")
        ),
        *(map(words.adapt_column, EXPECTATION_COLUMNS) if is_expected else []),
        words.adapt_column(
            Column("test images chose", "yes means that the number is optimistic, because test images chose the model")
        ),
    ]
    rules = dict.fromkeys(row["chosen_by"] for row in selected)
    terms = {
        words.adapt(label): words.adapt(meaning)
        for label, meaning in (CHOICES[rule] for rule in rules if rule in CHOICES)
    }
    return Table(columns, rows, terms) if rows else None


def expectation_cells(row: Mapping[str, Any], words: MetricWords) -> list[Cell]:
    """Return the cells of what a rule gives on average, and of its interval."""
    mean, interval = row.get("expected_accuracy"), row.get("expected_interval")
    shown = Cell(ABSENT) if interval is None else Cell(words.format_interval(interval), interval[0])
    return [Cell(words.format(mean), mean), shown]


def build_combination_table(metrics: Mapping[str, Any]) -> Table | None:
    """Return the accuracy of several models used together, beside that of one model."""
    combined, words = metrics.get("combination", []), MetricWords.read(metrics)
    is_calibrated = any("ece" in row for row in combined)
    # A task that defines no votes has no temperatures either.
    temperature = " at the temperature fitted on validation" if metrics.get("worth") else ""
    rows = [
        [
            Cell(row["source"], row["source"]),
            Cell(row["method"].replace("_", " "), row["method"]),
            Cell(str(row.get("n_models", ABSENT)), row.get("n_models")),
            Cell(words.format(row.get("accuracy")), row.get("accuracy")),
            Cell(format_number(row.get("loss"), 4), row.get("loss")),
            *([Cell(format_percent(row.get("ece")), row.get("ece"))] if is_calibrated else []),
        ]
        for row in combined
    ]
    columns = [
        Column("source"),
        Column("method"),
        Column("models", "number of models used; it is not recorded for a greedy soup"),
        words.adapt_column(Column("accuracy %", "test accuracy, higher is better")),
        Column("loss", words.adapt(f"negative log-likelihood on test in nats{temperature}; lower is better")),
    ]
    if is_calibrated:
        meaning = "the difference between confidence and accuracy; lower is better"
        columns.append(Column("ECE %", f"expected calibration error on test{temperature}, {meaning}"))
    methods = dict.fromkeys(row["method"] for row in combined)
    terms = {name: words.adapt(METHODS[name]) for name in methods if name in METHODS}
    return Table(columns, rows, terms) if rows else None


SECTIONS = {
    "Sources": build_source_table,
    "Similarity to the originals": build_similarity_table,
    "Models voting together": build_worth_table,
    "Protocols": build_protocol_table,
    "Selecting one model": build_selection_table,
    "Using many models": build_combination_table,
}


def write_report(metrics: Mapping[str, Any], verdict: Verdict | None, folder: Path, *, title: str) -> None:
    """Write table.md and scores.csv into `folder`."""
    words = MetricWords.read(metrics)
    parts = [f"# {title}", words.adapt("Accuracies on test, in percent.")]
    if said := read_sentences(metrics):
        parts += ["## Verdict", "\n".join(f"- {sentence}" for sentence in said)]
    if (table := build_comparison_table(verdict)) is not None:
        parts.append(table.explained_markdown())
    for heading, build in SECTIONS.items():
        if (table := build(metrics)) is not None:
            parts += [f"## {heading}", table.explained_markdown()]
    with replace_atomically(folder / "table.md") as temporary:
        temporary.write_text("\n\n".join(parts) + "\n")
    with replace_atomically(folder / "scores.csv") as temporary:
        temporary.write_text(format_source_csv(metrics))
