"""Write the numbers of README and docs from results/*.json.

    python -m scripts.update_docs            write them
    python -m scripts.update_docs --check    name every place that differs from its result, and fail if there is one
    python -m scripts.update_docs --stale    list the results whose code has changed since they were measured

A place is marked in the text with two comments, which Markdown does not show:

    <!-- result quickstart sources seed=1 -->      names of results (NAME or NAME,NAME), a view, and its arguments
    … what this command writes …
    <!-- end -->

`scripts/measure/views.py` explains the views. Markdown shows comments inside code blocks, and takes a line that starts
with a comment for HTML, so a mark stands outside of code blocks, and within a sentence never at the start of a line.
"""

import inspect
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from core.command_line.run_command import run_command
from core.runtime.artifacts import replace_atomically
from core.runtime.errors import UserError
from core.runtime.provenance import ROOT
from scripts.console import make_parser
from scripts.measure.catalogue import MEASUREMENTS
from scripts.measure.result import RESULTS, Result
from scripts.measure.views import VIEWS

PAGES = ("README.md", "docs/*.md")
NOT_MEASURED = "not measured yet"
PLACE = re.compile(r"(<!-- result (\S+) (\w+)([^>\n]*) -->)(.*?)(<!-- end -->)", re.DOTALL)


def main() -> int:
    """Write, check or list; return 1 where a check finds a difference."""
    parser = make_parser("python -m scripts.update_docs", __doc__)
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--check", action="store_true", help="change nothing; fail where a page differs from a result")
    choice.add_argument("--stale", action="store_true", help="list the results whose code has changed since")
    chosen = parser.parse_args()
    if chosen.stale:
        sys.stdout.write("\n".join(describe_stale()) + "\n")
        return 0
    changed = [page for page in find_pages() if update(page, write=not chosen.check)]
    for page in changed:
        sys.stdout.write(f"{page.relative_to(ROOT)} {'differs from results/' if chosen.check else 'was updated'}\n")
    return int(chosen.check and bool(changed))


def find_pages() -> list[Path]:
    """Return README and the pages of docs."""
    return [path for pattern in PAGES for path in sorted(ROOT.glob(pattern))]


def describe_stale() -> list[str]:
    """Return one line per result whose code has changed: its commit, the changed files, and how to measure it again."""
    lines = []
    for path in sorted(RESULTS.glob("*.json")):
        result = Result.load(path.stem)
        if changed := result.changed_files():
            commit = result.provenance["git"].get("commit", "an unknown commit")[:7]
            named = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
            lines.append(f"results/{path.name}: measured at {commit}; changed since: {named}; repeat: {result.command}")
    return lines or ["no result is stale"]


def update(page: Path, *, write: bool) -> bool:
    """Fill in every marked place of a page, and return whether that changes it."""
    text = page.read_text()
    filled = fill_in(text)
    if write and filled != text:
        with replace_atomically(page) as temporary:
            temporary.write_text(filled)
    return filled != text


def fill_in(text: str) -> str:
    """Return the text with every marked place as its results say.

    A measurement of the catalogue that has no result yet is left out. A table names it, and a number of no other result
    is replaced by words.

    Raises:
        UserError: A measurement or a view does not exist, or a mark does not fit its view.
    """

    def shown(place: re.Match[str]) -> str:
        names, view, arguments, before = place[2].split(","), place[3], place[4].split(), place[5]
        if view not in VIEWS:
            raise UserError(f"{place[1]}: unknown view {view}; expected one of {', '.join(VIEWS)}")
        try:
            inspect.signature(VIEWS[view]).bind(names, *arguments)
        except TypeError as error:
            raise UserError(f"{place[1]}: {error}") from error
        missing = [name for name in names if name in MEASUREMENTS and not (RESULTS / f"{name}.json").is_file()]
        content = show_measured([name for name in names if name not in missing], view, arguments, bool(missing))
        block = "\n" in before or "\n" in content  # a table stands on lines of its own, a number within a sentence
        if block and missing:
            rest = f"{NOT_MEASURED}: {', '.join(missing)}"
            content = rest if content == NOT_MEASURED else f"{content}\n\n{rest.capitalize()}"
        return place[1] + (f"\n{content}\n" if block else content) + place[6]

    return PLACE.sub(shown, text)


def show_measured(names: Sequence[str], view: str, arguments: Sequence[str], is_part: bool) -> str:
    """Return what a view shows of the results that exist; words if they are a part that does not suffice for it."""
    try:
        return VIEWS[view]([Result.load(name) for name in names], *arguments) if names else NOT_MEASURED
    except UserError:
        if is_part:
            return NOT_MEASURED
        raise


if __name__ == "__main__":
    run_command(main)
