"""Write the numbers of README and docs from results/*.json.

    python -m scripts.update_docs            write them
    python -m scripts.update_docs --check    name every place that differs from its result, and fail if there is one
    python -m scripts.update_docs --stale    list the results whose code has changed since they were measured

A place is marked in the text with two comments, which Markdown does not show:

    <!-- result quickstart sources -->      the names of one or several results, a view of VIEWS, and its arguments
    … what this command writes …
    <!-- end -->
"""

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from core.command_line.run_command import run_command
from core.report.compared_runs import ComparedRun, sort_runs
from core.report.comparison_table import build_table
from core.report.repetitions import Estimate, build_repeated_source_table, build_repetition_table
from core.report.run_files import RunFiles
from core.report.tables import format_protocol_table, format_source_table, read_sentences
from core.runtime.artifacts import replace_atomically
from core.runtime.errors import UserError
from core.runtime.provenance import ROOT
from scripts.benchmark import growth, samplers
from scripts.benchmark.__main__ import format_table
from scripts.console import make_parser
from scripts.measure.result import RESULTS, Result

PAGES = ("README.md", "docs/*.md")
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

    Raises:
        UserError: A result or a view does not exist.
    """

    def shown(place: re.Match[str]) -> str:
        names, view, arguments, before = place[2].split(","), place[3], place[4].split(), place[5]
        if view not in VIEWS:
            raise UserError(f"{place[1]}: unknown view {view}; expected one of {', '.join(VIEWS)}")
        content = VIEWS[view]([Result.load(name) for name in names], *arguments)
        block = "\n" in before or "\n" in content  # a table stands on lines of its own, a number within a sentence
        return place[1] + (f"\n{content}\n" if block else content) + place[6]

    return PLACE.sub(shown, text)


def open_runs(results: Sequence[Result]) -> list[ComparedRun]:
    """Return the runs of several results, in the order of what sets them apart."""
    kept = [run for result in results for run in result.data]
    return sort_runs(
        [ComparedRun.from_files(RunFiles(Path(run["folder"]), run["metrics"], config=run["config"])) for run in kept]
    )


def show_sources(results: Sequence[Result], run: str = "0") -> str:
    """Return the table over sources of one run."""
    return format_source_table(results[0].data[int(run)]["metrics"])


def show_protocols(results: Sequence[Result], run: str = "0") -> str:
    """Return the two protocols of one run."""
    return format_protocol_table(results[0].data[int(run)]["metrics"])


def show_verdict(results: Sequence[Result], run: str = "0") -> str:
    """Return the headline of one run's verdict as a quotation."""
    return f"> {read_sentences(results[0].data[int(run)]['metrics'])[0]}"


def show_comparison(results: Sequence[Result]) -> str:
    """Return one row per run."""
    return build_table(open_runs(results)).markdown()


def show_repetitions(results: Sequence[Result]) -> str:
    """Return one row per group of runs that differ in their seeds only, with t-intervals."""
    table = build_repetition_table(open_runs(results))
    if table is None:
        raise UserError(f"results/{results[0].name}.json holds no repeated runs, so there is no interval to show")
    return table.markdown()


def show_repeated_sources(results: Sequence[Result]) -> str:
    """Return one row per source, averaged over runs that differ in their seeds only."""
    return build_repeated_source_table(open_runs(results)).markdown()


def show_mean(results: Sequence[Result], source: str, key: str, scale: str = "100", decimals: str = "2") -> str:
    """Return one measure of one source within a sentence: its value, or mean ± half-width over several trainings."""
    values = [run.rows[source][key] for run in open_runs(results)]
    estimate = Estimate.from_trainings(values)
    if estimate is None:
        return f"{float(scale) * values[0]:.{decimals}f}"
    return estimate.format(float(scale), int(decimals))


def show_minutes(results: Sequence[Result]) -> str:
    """Return the whole minutes that one run took on average, rounded up."""
    runs = sum(len(result.data) for result in results)
    return str(int(-(-sum(result.seconds for result in results) // (60 * runs))))


def show_origin(results: Sequence[Result]) -> str:
    """Return when, where, with which code and by which command the results were measured, as one sentence."""
    newest = max(results, key=lambda result: result.provenance["time"])
    about = newest.provenance
    commits = sorted({result.provenance["git"].get("commit", "unknown")[:7] for result in results})
    commands = "python -m scripts.measure " + " ".join(result.name for result in results)
    return (
        f"Measured on {about['time'][:10]} with `{commands}` at commit {' and '.join(commits)}, "
        f"torch {about['versions']['torch']}, {about['device']}, {about['cores']} cores."
    )


def show_benchmark(results: Sequence[Result], stage: str) -> str:
    """Return the table of one stage of the benchmark."""
    tables = {"growth": growth.format_table, "samplers": samplers.format_table}
    return tables.get(stage, format_table)(results[0].data[stage])


VIEWS: dict[str, Callable[..., str]] = {
    "sources": show_sources,
    "protocols": show_protocols,
    "verdict": show_verdict,
    "comparison": show_comparison,
    "repetitions": show_repetitions,
    "repeated_sources": show_repeated_sources,
    "mean": show_mean,
    "minutes": show_minutes,
    "origin": show_origin,
    "benchmark": show_benchmark,
}


if __name__ == "__main__":
    run_command(main)
