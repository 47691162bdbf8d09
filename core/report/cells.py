"""Numbers for people to read: cells, tables of cells, Markdown and CSV."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

ABSENT = "–"


class Cell(NamedTuple):
    """What is shown, and what a column is ordered by; a cell without a value is last in either order."""

    text: str
    value: float | str | None = None


@dataclass(frozen=True)
class Column:
    """A header, and one sentence that explains it where there is room."""

    label: str
    explanation: str = ""


@dataclass(frozen=True)
class Table:
    """Columns, and rows of as many cells; the first cell names its row."""

    columns: list[Column]
    rows: list[list[Cell]]

    def markdown(self) -> str:
        """Return the table in Markdown."""
        return markdown([column.label for column in self.columns], [[cell.text for cell in row] for row in self.rows])


def percent(value: float | None) -> str:
    """Show an accuracy in [0, 1] as percent with two decimals; absent is a dash."""
    return ABSENT if value is None else f"{100 * value:.2f}"


def number(value: float | None, decimals: int = 3) -> str:
    """Show a number, or a dash where the measure has no meaning for that source."""
    return ABSENT if value is None else f"{value:.{decimals}f}"


def signed(value: float | None, scale: float = 1, decimals: int = 3) -> str:
    """Show a difference with its sign; minus is the character of that name, plus is always written."""
    return ABSENT if value is None else f"{scale * value:+.{decimals}f}".replace("-", "−")


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, padded so that it also reads well in a terminal; the first column is left-aligned."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        numbers = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        return "| " + " | ".join([cells[0].ljust(widths[0]), *numbers]) + " |"

    rule = "|" + "|".join("-" * (width + 1) + ("-" if index == 0 else ":") for index, width in enumerate(widths)) + "|"
    return "\n".join([line(header), rule, *(line(row) for row in rows)])


def csv_text(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Rows as CSV; None is an empty field."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
