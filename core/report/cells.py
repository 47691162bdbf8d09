"""Cells, tables of cells, and their formats: numbers as text, Markdown and CSV."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

ABSENT = "–"


class Cell(NamedTuple):
    """The text of a cell, and the value that its column is sorted by. Cells without a value come last."""

    text: str
    value: float | str | None = None


@dataclass(frozen=True)
class Column:
    """A header and its explanation, which is shown under the table."""

    label: str
    explanation: str = ""


@dataclass(frozen=True)
class Table:
    """Columns, and rows with one cell per column. The first cell names its row."""

    columns: list[Column]
    rows: list[list[Cell]]
    row_terms: Mapping[str, str] = field(default_factory=dict)  # explanations of names in the rows

    @property
    def column_terms(self) -> dict[str, str]:
        """Explanations of the columns that have one, by header."""
        return {column.label: column.explanation for column in self.columns if column.explanation}

    def markdown(self) -> str:
        """Return the table in Markdown."""
        return markdown([column.label for column in self.columns], [[cell.text for cell in row] for row in self.rows])

    def legend_markdown(self) -> str:
        """Return the explanations of rows and columns as a Markdown list."""
        terms = [*self.row_terms.items(), *self.column_terms.items()]
        return "\n".join(f"- **{term}**: {explanation}" for term, explanation in terms)

    def explained_markdown(self) -> str:
        """Return the table in Markdown with its explanations below."""
        return "\n\n".join(part for part in (self.markdown(), self.legend_markdown()) if part)


def format_percent(value: float | None) -> str:
    """Format an accuracy in [0, 1] as percent with two decimals; None is a dash."""
    return ABSENT if value is None else f"{100 * value:.2f}"


def format_number(value: float | None, decimals: int = 3) -> str:
    """Format a number; None is a dash."""
    return ABSENT if value is None else f"{value:.{decimals}f}"


def format_signed(value: float | None, scale: float = 1, decimals: int = 3) -> str:
    """Format a difference with its sign. Plus is always written, and minus is the character U+2212."""
    return ABSENT if value is None else f"{scale * value:+.{decimals}f}".replace("-", "−")


def format_interval(ends: Sequence[float], scale: float = 1, decimals: int = 3) -> str:
    """Return both ends joined by an en dash, or by "to" if a minus sign would make the dash ambiguous."""
    low, high = (format_signed(end, scale, decimals).removeprefix("+") for end in ends)
    return f"{low} to {high}" if min(ends) < 0 else f"{low}–{high}"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, padded so that it also reads well in a terminal. The first column is left-aligned."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        numbers = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        return "| " + " | ".join([cells[0].ljust(widths[0]), *numbers]) + " |"

    rule = "|" + "|".join("-" * (width + 1) + ("-" if index == 0 else ":") for index, width in enumerate(widths)) + "|"
    return "\n".join([line(header), rule, *(line(row) for row in rows)])


def format_csv(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return the rows as CSV; None is an empty field."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
