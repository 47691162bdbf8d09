"""metrics.json as tables: sources, the two protocols, selection, combination and the verdict's comparisons.

Accuracies are shown in percent. A block that metrics.json does not hold gives no table, never an empty or made-up one.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from core.evaluation.verdict import Difference, Verdict
from core.report.cells import ABSENT, Cell, Column, Table, csv_text, markdown, number, percent, signed
from core.runtime.artifacts import replacing

PROTOCOLS = {"paper_protocol": "paper: best on test", "held_out_protocol": "held out: chosen on validation"}

# The measures of metrics.json's rows, in the order in which they are shown.
MEASURES: dict[str, tuple[Column, Callable[[float], str]]] = {
    "n": (Column("n", "How many models"), str),
    "accuracy_mean": (Column("mean %", "Mean test accuracy"), percent),
    "accuracy_std": (Column("std %", "Standard deviation of test accuracy over the models"), percent),
    "accuracy_interval": (
        Column(
            "95 % interval", "Bootstrap interval of the mean test accuracy, over models and test images, in percent"
        ),
        str,
    ),
    "accuracy_best": (Column("best %", "Highest test accuracy: chosen by the test images, so optimistic"), percent),
    "accuracy_median": (Column("median %", "Median test accuracy"), percent),
    "accuracy_worst": (Column("worst %", "Lowest test accuracy"), percent),
    "loss_mean": (Column("loss", "Mean negative log-likelihood on test, in nats"), lambda value: number(value, 4)),
    "ece_mean": (Column("ECE %", "Mean expected calibration error on test"), percent),
    "max_iou_mean": (
        Column("max IoU", "Similarity to the most similar original, mean over models: low is novel"),
        number,
    ),
    "within_iou_mean": (Column("IoU within", "Mean similarity of two models of this source: low is diverse"), number),
    "min_l2_mean": (Column("min L2", "Distance to the nearest original, mean over models"), number),
    "min_l2_relative_mean": (Column("rel. L2", "The same in units of the mean distance between two originals"), number),
    "near_copies": (
        Column(
            "copies %", "Near-copies: share of models closer to an original than any two originals are to each other"
        ),
        percent,
    ),
}


def source_table(metrics: Mapping[str, Any]) -> str:
    """Return the short form for a terminal: accuracy on test in percent, similarity and distance to the originals."""
    header = ["source", "n", "mean ± std", "best", "median", "worst", "max IoU", "IoU within", "min L2"]
    rows = []
    for row in metrics["table"]:
        spread = f" ± {percent(row['accuracy_std'])}" if "accuracy_std" in row else ""
        rows.append(
            [
                row["source"],
                str(row["n"]),
                percent(row["accuracy_mean"]) + spread,
                *(percent(row[f"accuracy_{name}"]) for name in ("best", "median", "worst")),
                *(number(row.get(name)) for name in ("max_iou_mean", "within_iou_mean", "min_l2_mean")),
            ]
        )
    return markdown(header, rows)


def protocol_table(metrics: Mapping[str, Any]) -> str:
    """Return the paper's three columns under both protocols, test accuracy in percent, for a terminal."""
    sources = list(metrics["paper_protocol"])
    return markdown(
        ["protocol", *sources],
        [[label, *(percent(metrics[key].get(source)) for source in sources)] for key, label in PROTOCOLS.items()],
    )


def sentences(metrics: Mapping[str, Any]) -> list[str]:
    """Return the verdict in words, as it was when the run was scored; empty where it was scored without one."""
    return metrics.get("verdict", {}).get("sentences", [])


def closing_words(metrics: Mapping[str, Any]) -> str:
    """Return the last words of a run in the terminal: both tables, the headline, and a caution where there is one."""
    caution = metrics["verdict"].get("caution")
    said = [sentences(metrics)[0], *([caution] if caution else [])]
    return "\n\n".join([source_table(metrics), protocol_table(metrics), "\n".join(said)])


def full_table(metrics: Mapping[str, Any]) -> Table:
    """Return one row per source with every measure that any source has."""
    shown = [key for key in MEASURES if any(key in row for row in metrics["table"])]
    rows = [
        [Cell(row["source"], row["source"]), *(measure_cell(key, row.get(key)) for key in shown)]
        for row in metrics["table"]
    ]
    return Table([Column("source", "Where the weights come from"), *(MEASURES[key][0] for key in shown)], rows)


def measure_cell(key: str, value: Any) -> Cell:
    """Return one measure of one source; an interval is ordered by its lower end."""
    if value is None:
        return Cell(ABSENT)
    return (
        Cell(interval(value, 100, 2), value[0]) if isinstance(value, Sequence) else Cell(MEASURES[key][1](value), value)
    )


def interval(ends: Sequence[float], scale: float = 1, decimals: int = 3) -> str:
    """Return two ends with an en dash; with words where a minus sign would make that hard to read."""
    low, high = (signed(end, scale, decimals).removeprefix("+") for end in ends)
    return f"{low} to {high}" if min(ends) < 0 else f"{low}–{high}"


def protocols(metrics: Mapping[str, Any]) -> Table | None:
    """Return the paper's three columns under each protocol that is there."""
    there = {label: metrics[key] for key, label in PROTOCOLS.items() if metrics.get(key)}
    sources = list(dict.fromkeys(source for values in there.values() for source in values))
    rows = [
        [Cell(label, label), *(Cell(percent(values.get(source)), values.get(source)) for source in sources)]
        for label, values in there.items()
    ]
    return Table([Column("protocol"), *(Column(f"{source} %") for source in sources)], rows) if rows else None


def comparisons(verdict: Verdict | None) -> Table | None:
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
            "outcome",
            "From the two intervals: dominates is better on one axis and worse on none, "
            "a trade-off is better on one and worse on the other",
        ),
        Column(
            "accuracy, points",
            "Mean test accuracy of p_diff minus that of the baseline, in percentage points: above 0 is better",
        ),
        Column("95 % interval"),
        Column("max IoU", "Mean maximum IoU of p_diff minus that of the baseline: below 0 is newer"),
        Column("95 % interval"),
    ]
    return Table(columns, rows) if rows else None


def difference_cells(difference: Difference | None, scale: float = 1, decimals: int = 3) -> list[Cell]:
    """Return the cell of a difference and that of its interval, both ends with their sign."""
    if difference is None:
        return [Cell(ABSENT), Cell(ABSENT)]
    shown = Cell(signed(difference.value, scale, decimals), difference.value)
    if difference.interval is None:
        return [shown, Cell(ABSENT)]
    low, high = (signed(end, scale, decimals) for end in difference.interval)
    return [shown, Cell(f"{low} to {high}", difference.interval[0])]


def selection(metrics: Mapping[str, Any]) -> Table | None:
    """Return the accuracy of the best model, by what chose it."""
    rows = [
        [
            Cell(row["source"], row["source"]),
            Cell(row["chosen_by"].replace("_", " "), row["chosen_by"]),
            Cell(percent(row.get("test_accuracy")), row.get("test_accuracy")),
            Cell("yes" if row.get("uses_test") else "no", str(bool(row.get("uses_test")))),
        ]
        for row in metrics.get("selection", [])
    ]
    columns = [
        Column("source"),
        Column("chosen by"),
        Column("test accuracy %"),
        Column("test images chose", "A choice made by test images flatters its own result"),
    ]
    return Table(columns, rows) if rows else None


def combination(metrics: Mapping[str, Any]) -> Table | None:
    """Return many models used together, against one."""
    rows = [
        [
            Cell(row["source"], row["source"]),
            Cell(row["method"].replace("_", " "), row["method"]),
            Cell(str(row.get("n_models", ABSENT)), row.get("n_models")),
            Cell(percent(row.get("accuracy")), row.get("accuracy")),
            Cell(number(row.get("loss"), 4), row.get("loss")),
            Cell(percent(row.get("ece")), row.get("ece")),
        ]
        for row in metrics.get("combination", [])
    ]
    columns = [
        Column("source"),
        Column("method"),
        Column("models"),
        Column("accuracy %"),
        Column("loss", "Negative log-likelihood in nats"),
        Column("ECE %"),
    ]
    return Table(columns, rows) if rows else None


SECTIONS = {"Protocols": protocols, "Selecting one model": selection, "Using many models": combination}


def write_report(metrics: Mapping[str, Any], verdict: Verdict | None, folder: Path, *, title: str) -> None:
    """Write table.md and scores.csv into `folder`."""
    parts = [f"# {title}", "Accuracies on test, in percent."]
    if said := sentences(metrics):
        parts += ["## Verdict", "\n".join(f"- {sentence}" for sentence in said)]
    if (table := comparisons(verdict)) is not None:
        parts.append(table.markdown())
    parts += ["## Sources", full_table(metrics).markdown()]
    for heading, build in SECTIONS.items():
        if (table := build(metrics)) is not None:
            parts += [f"## {heading}", table.markdown()]
    with replacing(folder / "table.md") as temporary:
        temporary.write_text("\n\n".join(parts) + "\n")
    with replacing(folder / "scores.csv") as temporary:
        temporary.write_text(source_csv(metrics))


def source_csv(metrics: Mapping[str, Any]) -> str:
    """Return the table over sources at full precision, accuracies in [0, 1]; an empty field does not apply."""
    ends = {"accuracy_interval_low": 0, "accuracy_interval_high": 1}
    names = [name for key in MEASURES for name in (ends if key == "accuracy_interval" else [key])]
    rows = []
    for row in metrics["table"]:
        flat = row | {
            name: row["accuracy_interval"][index] for name, index in ends.items() if row.get("accuracy_interval")
        }
        rows.append([row["source"], *(flat.get(name) for name in names)])
    used = [0, *(index for index in range(1, len(names) + 1) if any(row[index] is not None for row in rows))]
    return csv_text([["source", *names][index] for index in used], [[row[index] for index in used] for row in rows])
