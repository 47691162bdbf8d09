"""The results of one part, written to a file after every step, so that a part that overruns keeps earlier results."""

import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from core.report.cells import ABSENT, markdown
from core.runtime.artifacts import write_json

NEEDS_GPU = "needs a GPU"
Row = Mapping[str, Any]  # {header: number, text or None}


class Findings:
    """The tables and failed cases of one part; every change is written to `path`."""

    def __init__(self, path: Path):
        self.path = path
        self.content: dict[str, list[Any]] = {"tables": [], "failures": []}
        self._write()

    def _write(self) -> None:
        write_json(self.path, self.content)

    def add_table(self, title: str, rows: Sequence[Row]) -> None:
        """Add a table or replace the table with this title; the keys of all rows form the header."""
        self._put({"title": title, "rows": [dict(row) for row in rows]})

    def add_text(self, title: str, text: str) -> None:
        """Add a text in Markdown or replace the text with this title."""
        self._put({"title": title, "text": text})

    def _put(self, entry: dict[str, Any]) -> None:
        tables = self.content["tables"]
        known = next((number for number, table in enumerate(tables) if table["title"] == entry["title"]), len(tables))
        tables[known : known + 1] = [entry]
        self._write()

    def add_failure(self, case: str, reason: str) -> None:
        """Record that a case failed; the part continues and counts as failed."""
        lines = reason.strip().splitlines() or ["unknown reason"]
        self.content["failures"].append({"case": case, "error": lines[0][:300]})
        self._write()

    def attempt(self, case: str, run: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Return the result of `run`; record an error and return None instead, so that the next case still runs."""
        try:
            return run(*arguments, **options)
        except Exception as error:  # any error counts: out of memory, a missing compiler, and so on
            traceback.print_exc()
            sys.stderr.flush()
            self.add_failure(case, f"{type(error).__name__}: {error}")
            return None


def format_table(table: Mapping[str, Any]) -> str:
    """Return one table of the findings in Markdown, under its title."""
    if "text" in table:
        return f"**{table['title']}**\n\n{table['text']}"
    if not table["rows"]:
        return f"**{table['title']}**\n\nnothing was measured"
    header = list(dict.fromkeys(name for row in table["rows"] for name in row))
    cells = [[format_value(row.get(name)) for name in header] for row in table["rows"]]
    return f"**{table['title']}**\n\n{markdown(header, cells)}"


def format_value(value: Any) -> str:
    """Return a value as text: three significant digits, thousands with a comma, a dash for None."""
    if value is None:
        return ABSENT
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 1000 else f"{value:.3g}"
