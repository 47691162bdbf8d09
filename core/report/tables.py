"""metrics.json as tables: sources, the two protocols, selection, combination and the verdict's comparisons.

Accuracies are shown in percent. A block that metrics.json lacks gives no table.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from core.evaluation.verdict import Difference, Verdict
from core.report.cells import (
    ABSENT,
    Cell,
    Column,
    Table,
    format_csv,
    format_number,
    format_percent,
    format_signed,
    markdown,
)
from core.report.glossary import explain_sources
from core.runtime.artifacts import replace_atomically

PROTOCOLS = {"paper_protocol": "paper: best on test", "held_out_protocol": "held out: chosen on validation"}
PROTOCOL_TERMS = {
    PROTOCOLS["paper_protocol"]: "the model with the best test accuracy. It is optimistic, because the test images "
    "that measure the model also chose it",
    PROTOCOLS["held_out_protocol"]: "the model with the best accuracy on validation images, which are held out from "
    "training and test; its test accuracy is what a user can expect",
}

# The measures in the rows of metrics.json, in the order of the columns.
MEASURES: dict[str, tuple[Column, Callable[[float], str]]] = {
    "n": (Column("n", "number of models"), str),
    "accuracy_mean": (Column("mean %", "mean test accuracy, higher is better"), format_percent),
    "accuracy_std": (Column("std %", "standard deviation of the test accuracy over the models"), format_percent),
    "accuracy_interval": (
        Column(
            "95% interval", "95% confidence interval of the mean, from a bootstrap over models and over test images"
        ),
        str,
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
    "max_iou_mean": (
        Column(
            "max IoU",
            "share of wrong test images in common with the most similar original (both wrong / at least one wrong), "
            "mean over models; lower is newer, and 1 means the same errors",
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
    "near_copies": (
        Column("copies %", "near-copies: models closer to an original than any two originals are to each other"),
        format_percent,
    ),
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
    "one model": "the model with the highest accuracy on validation images",
    "soft vote": "the mean of the predicted probabilities of all models, which costs one forward pass for each model",
    "greedy soup": "one model: weights averaged one by one for as long as the validation accuracy does not fall",
    "mean of weights": "one model: the mean of the weights of all checkpoints (the source ensemble)",
}
OUTCOME_LABEL = "outcome"


def format_source_table(metrics: Mapping[str, Any]) -> str:
    """Return the short table for a terminal: test accuracy in percent, similarity and distance to the originals."""
    header = ["source", "n", "mean ± std", "best", "median", "worst", "max IoU", "IoU within", "min L2"]
    rows = []
    for row in metrics["table"]:
        spread = f" ± {format_percent(row['accuracy_std'])}" if "accuracy_std" in row else ""
        rows.append(
            [
                row["source"],
                str(row["n"]),
                format_percent(row["accuracy_mean"]) + spread,
                *(format_percent(row[f"accuracy_{name}"]) for name in ("best", "median", "worst")),
                *(format_number(row.get(name)) for name in ("max_iou_mean", "within_iou_mean", "min_l2_mean")),
            ]
        )
    return markdown(header, rows)


def format_protocol_table(metrics: Mapping[str, Any]) -> str:
    """Return the paper's three columns under both protocols for a terminal, test accuracy in percent."""
    sources = list(metrics["paper_protocol"])
    return markdown(
        ["protocol", *sources],
        [
            [label, *(format_percent(metrics[key].get(source)) for source in sources)]
            for key, label in PROTOCOLS.items()
        ],
    )


def read_sentences(metrics: Mapping[str, Any]) -> list[str]:
    """Return the sentences that were stored when the run was scored, or an empty list if there is no verdict."""
    return metrics.get("verdict", {}).get("sentences", [])


def format_closing_words(metrics: Mapping[str, Any]) -> str:
    """Return the text that a run prints at its end: two tables, the headline of the verdict, and its caution if any."""
    caution = metrics["verdict"].get("caution")
    said = [read_sentences(metrics)[0], *([caution] if caution else [])]
    return "\n\n".join([format_source_table(metrics), format_protocol_table(metrics), "\n".join(said)])


def build_source_table(metrics: Mapping[str, Any]) -> Table:
    """Return one row per source, with every measure that at least one source has."""
    shown = [key for key in MEASURES if any(key in row for row in metrics["table"])]
    rows = [
        [Cell(row["source"], row["source"]), *(measure_cell(key, row.get(key)) for key in shown)]
        for row in metrics["table"]
    ]
    columns = [Column("source", "where the weights come from"), *(MEASURES[key][0] for key in shown)]
    return Table(columns, rows, explain_sources(row["source"] for row in metrics["table"]))


def measure_cell(key: str, value: Any) -> Cell:
    """Return the cell of one measure of one source. Intervals are sorted by their lower end."""
    if value is None:
        return Cell(ABSENT)
    if isinstance(value, Sequence):
        return Cell(format_interval(value, 100, 2), value[0])
    return Cell(MEASURES[key][1](value), value)


def format_interval(ends: Sequence[float], scale: float = 1, decimals: int = 3) -> str:
    """Return both ends joined by an en dash, or by "to" if a minus sign would make the dash ambiguous."""
    low, high = (format_signed(end, scale, decimals).removeprefix("+") for end in ends)
    return f"{low} to {high}" if min(ends) < 0 else f"{low}–{high}"


def build_protocol_table(metrics: Mapping[str, Any]) -> Table | None:
    """Return the paper's three columns under each protocol that metrics.json holds."""
    known = {label: metrics[key] for key, label in PROTOCOLS.items() if metrics.get(key)}
    sources = list(dict.fromkeys(source for values in known.values() for source in values))
    rows = [
        [Cell(label, label), *(Cell(format_percent(values.get(source)), values.get(source)) for source in sources)]
        for label, values in known.items()
    ]
    explanations = explain_sources(sources)
    columns = [
        Column("protocol", "rule that chooses the one model whose test accuracy is shown"),
        *(Column(f"{source} %", explanations.get(source, "")) for source in sources),
    ]
    return Table(columns, rows, {label: PROTOCOL_TERMS[label] for label in known}) if rows else None


def build_comparison_table(verdict: Verdict | None) -> Table | None:
    """Return p_diff minus each baseline, with the intervals that decide the outcome."""
    rows = [
        [
            Cell(row.baseline.source, row.baseline.source),
            Cell(row.outcome.value, row.outcome.value),
            *difference_cells(row.accuracy, 100, 2),
            *difference_cells(row.max_iou),
        ]
        for row in (verdict.comparisons if verdict is not None else ())
    ]
    columns = [
        Column("p_diff against"),
        Column(
            OUTCOME_LABEL,
            "dominates: better in accuracy or max IoU and not worse in the other; is dominated: the reverse; "
            "trade-off: better in one and worse in the other; tie: no measurable difference in either",
        ),
        Column(
            "accuracy, points",
            "mean test accuracy of p_diff minus the source's, in percentage points; above 0 is better",
        ),
        Column(
            "95% interval",
            "95% interval of the difference in the column to the left, which is measurable if the interval excludes 0",
        ),
        Column(
            "max IoU",
            "mean max IoU of p_diff minus the source's; below 0 is newer",
        ),
        Column("95% interval"),
    ]
    return Table(columns, rows) if rows else None


def difference_cells(difference: Difference | None, scale: float = 1, decimals: int = 3) -> list[Cell]:
    """Return the cell of a difference and the cell of its interval, all numbers with their sign."""
    if difference is None:
        return [Cell(ABSENT), Cell(ABSENT)]
    shown = Cell(format_signed(difference.value, scale, decimals), difference.value)
    if difference.interval is None:
        return [shown, Cell(ABSENT)]
    return [shown, Cell(format_signed_interval(difference.interval, scale, decimals), difference.interval[0])]


def format_signed_interval(ends: Sequence[float], scale: float = 1, decimals: int = 3) -> str:
    """Return both ends with their signs."""
    low, high = (format_signed(end, scale, decimals) for end in ends)
    return f"{low} to {high}"


def build_selection_table(metrics: Mapping[str, Any]) -> Table | None:
    """Return the test accuracy of the model that each rule chooses."""
    selected = metrics.get("selection", [])
    rows = [
        [
            Cell(row["source"], row["source"]),
            Cell(row["chosen_by"].replace("_", " "), row["chosen_by"]),
            Cell(format_percent(row.get("test_accuracy")), row.get("test_accuracy")),
            Cell("yes" if row.get("uses_test") else "no", str(bool(row.get("uses_test")))),
        ]
        for row in selected
    ]
    columns = [
        Column("source"),
        Column("chosen by"),
        Column("test accuracy %", "test accuracy of the chosen model"),
        Column("test images chose", "yes means that the number is optimistic, because test images chose the model"),
    ]
    rules = dict.fromkeys(row["chosen_by"] for row in selected)
    return Table(columns, rows, dict(CHOICES[rule] for rule in rules if rule in CHOICES)) if rows else None


def build_combination_table(metrics: Mapping[str, Any]) -> Table | None:
    """Return the accuracy of several models used together, beside that of one model."""
    combined = metrics.get("combination", [])
    rows = [
        [
            Cell(row["source"], row["source"]),
            Cell(row["method"].replace("_", " "), row["method"]),
            Cell(str(row.get("n_models", ABSENT)), row.get("n_models")),
            Cell(format_percent(row.get("accuracy")), row.get("accuracy")),
            Cell(format_number(row.get("loss"), 4), row.get("loss")),
            Cell(format_percent(row.get("ece")), row.get("ece")),
        ]
        for row in combined
    ]
    columns = [
        Column("source"),
        Column("method"),
        Column("models", "number of models used; it is not recorded for a greedy soup"),
        Column("accuracy %", "test accuracy, higher is better"),
        Column("loss", "negative log-likelihood on test in nats, lower is better"),
        Column(
            "ECE %",
            "expected calibration error on test, the difference between confidence and accuracy; lower is better",
        ),
    ]
    methods = dict.fromkeys(row["method"] for row in combined)
    return Table(columns, rows, {name: METHODS[name] for name in methods if name in METHODS}) if rows else None


SECTIONS = {
    "Protocols": build_protocol_table,
    "Selecting one model": build_selection_table,
    "Using many models": build_combination_table,
}


def write_report(metrics: Mapping[str, Any], verdict: Verdict | None, folder: Path, *, title: str) -> None:
    """Write table.md and scores.csv into `folder`."""
    parts = [f"# {title}", "Accuracies on test, in percent."]
    if said := read_sentences(metrics):
        parts += ["## Verdict", "\n".join(f"- {sentence}" for sentence in said)]
    if (table := build_comparison_table(verdict)) is not None:
        parts.append(table.explained_markdown())
    parts += ["## Sources", build_source_table(metrics).explained_markdown()]
    for heading, build in SECTIONS.items():
        if (table := build(metrics)) is not None:
            parts += [f"## {heading}", table.explained_markdown()]
    with replace_atomically(folder / "table.md") as temporary:
        temporary.write_text("\n\n".join(parts) + "\n")
    with replace_atomically(folder / "scores.csv") as temporary:
        temporary.write_text(format_source_csv(metrics))


def format_source_csv(metrics: Mapping[str, Any]) -> str:
    """Return the table of sources at full precision, with accuracies in [0, 1] and empty cells for absent measures."""
    ends = {"accuracy_interval_low": 0, "accuracy_interval_high": 1}
    names = [name for key in MEASURES for name in (ends if key == "accuracy_interval" else [key])]
    rows = []
    for row in metrics["table"]:
        flat = row | {
            name: row["accuracy_interval"][index] for name, index in ends.items() if row.get("accuracy_interval")
        }
        rows.append([row["source"], *(flat.get(name) for name in names)])
    used = [0, *(index for index in range(1, len(names) + 1) if any(row[index] is not None for row in rows))]
    return format_csv([["source", *names][index] for index in used], [[row[index] for index in used] for row in rows])
