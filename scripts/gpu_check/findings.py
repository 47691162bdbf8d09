"""Tables and failed cases of one part, written to a file after every step, so that an overrun keeps earlier ones."""

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
    """Tables and failed cases of one part, kept in `path`."""

    def __init__(self, path: Path):
        self.path = path
        self.content: dict[str, list[Any]] = {"tables": [], "failures": []}
        self._write()

    def _write(self) -> None:
        write_json(self.path, self.content)

    def table(self, title: str, rows: Sequence[Row]) -> None:
        """Add a table, or replace the one of this title; the keys of all rows are the header."""
        self._put({"title": title, "rows": [dict(row) for row in rows]})

    def text(self, title: str, text: str) -> None:
        """Add something that is Markdown already."""
        self._put({"title": title, "text": text})

    def _put(self, entry: dict[str, Any]) -> None:
        tables = self.content["tables"]
        known = next((number for number, table in enumerate(tables) if table["title"] == entry["title"]), len(tables))
        tables[known : known + 1] = [entry]
        self._write()

    def fail(self, case: str, reason: str) -> None:
        """Record that a case failed; the part then counts as failed, and goes on."""
        lines = reason.strip().splitlines() or ["no reason was given"]
        self.content["failures"].append({"case": case, "error": lines[0][:300]})
        self._write()

    def attempt(self, case: str, run: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Return what `run` returns; record an error and return None, so that the next case still runs."""
        try:
            return run(*arguments, **options)
        except Exception as error:  # a case may fail in any way, from out of memory to a compiler that is missing
            traceback.print_exc()
            sys.stderr.flush()
            self.fail(case, f"{type(error).__name__}: {error}")
            return None


def as_markdown(table: Mapping[str, Any]) -> str:
    """Return one table of the file in Markdown, under its title."""
    if "text" in table:
        return f"**{table['title']}**\n\n{table['text']}"
    if not table["rows"]:
        return f"**{table['title']}**\n\nnothing was measured"
    header = list(dict.fromkeys(name for row in table["rows"] for name in row))
    cells = [[cell(row.get(name)) for name in header] for row in table["rows"]]
    return f"**{table['title']}**\n\n{markdown(header, cells)}"


def cell(value: Any) -> str:
    """Return a value as people read it: three digits, thousands with a comma, a dash for None."""
    if value is None:
        return ABSENT
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 1000 else f"{value:.3g}"
