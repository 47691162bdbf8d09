"""metrics.json as text: the table over sources and the two protocols, in Markdown."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core.runtime.artifacts import replacing


def percent(value: float | None) -> str:
    """An accuracy in [0, 1] as percent with two decimals; absent is a dash."""
    return "–" if value is None else f"{100 * value:.2f}"


def number(value: float | None, decimals: int = 3) -> str:
    """A number, or a dash where the measure has no meaning for that source."""
    return "–" if value is None else f"{value:.{decimals}f}"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, padded so that it also reads well in a terminal; the first column is left-aligned."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = [cells[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells[1:], widths[1:]))]
        return "| " + " | ".join(padded) + " |"

    rule = "|" + "|".join("-" * (width + 1) + ("-" if index == 0 else ":") for index, width in enumerate(widths)) + "|"
    return "\n".join([line(header), rule, *(line(row) for row in rows)])


def source_table(metrics: Mapping[str, Any]) -> str:
    """One row per source: accuracy on test in percent, similarity and distance to the originals."""
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
    """The paper's three columns under both protocols, test accuracy in percent."""
    names = {"paper_protocol": "paper: best on test", "held_out_protocol": "held out: chosen on validation"}
    sources = list(metrics["paper_protocol"])
    return markdown(["protocol", *sources], [[label, *(percent(metrics[key][source]) for source in sources)] for key, label in names.items()])


def write_report(metrics: Mapping[str, Any], folder: Path, title: str) -> str:
    """Write table.md into `folder` and return the tables it holds."""
    tables = f"{source_table(metrics)}\n\n{protocol_table(metrics)}\n"
    with replacing(folder / "table.md") as temporary:
        temporary.write_text(f"# {title}\n\nTest accuracy in percent.\n\n{tables}")
    return tables
