"""The report of a run as one self-contained HTML page, from saved files alone."""

import base64
import logging
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from core.evaluation.kinds import GENERATED, ORIGINAL
from core.evaluation.verdict import Outcome
from core.report import published, tables
from core.report.cells import Cell, Column, Table
from core.report.gallery import Exhibit, draw_all
from core.report.run_files import RunFiles, read_run
from core.runtime.artifacts import replacing
from core.runtime.run_directory import RunDirectory
from core.runtime.settings import flatten

log = logging.getLogger(__name__)

TEMPLATE = "page.html.j2"
OUTCOMES = {Outcome.DOMINATES: "good", Outcome.IS_DOMINATED: "bad"}  # a trade-off and a tie stay neutral


def write_page(run: RunDirectory | Path) -> Path:
    """Write report/{index.html, table.md, scores.csv, figures/*} of a run and return the page.

    Raises:
        UserError: metrics.json is missing or damaged, or the folder cannot be written to. Whatever else is missing or
            damaged is named on the page and in the log.
    """
    layout = run if isinstance(run, RunDirectory) else RunDirectory(run)
    files = read_run(layout.path)
    tables.write_report(files.metrics, files.verdict, layout.report, title=files.title)
    exhibits = draw_all(files, layout.report / "figures")
    page = layout.report / "index.html"
    with replacing(page) as temporary:
        temporary.write_text(render(files, exhibits))
    return page


def render(run: RunFiles, exhibits: list[Exhibit]) -> str:
    """Return the page's HTML, figures inlined."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    metrics = run.metrics
    return environment.get_template(TEMPLATE).render(
        title=run.title,
        summary=summary_line(run),
        problems=run.problems,
        sentences=tables.sentences(metrics),
        comparisons=tables.comparisons(run.verdict),
        sources=tables.full_table(metrics),
        exhibits=[(exhibit, inlined(exhibit.svg)) for exhibit in exhibits],
        protocols=tables.protocols(metrics),
        published=published.beside_ours(run),
        selection=tables.selection(metrics),
        combination=tables.combination(metrics),
        settings=settings_table(run.config),
        seeds={name: value for name, value in flatten(run.config) if name.split(".")[-1].endswith("seed")},
        provenance=[(mode, provenance_rows(call)) for mode, call in run.provenance.items() if isinstance(call, dict)],
        versions=versions_table(run.provenance),
        seconds=seconds_table(metrics.get("seconds", {})),
        outcome_class=lambda outcome: OUTCOMES.get(outcome, "neutral"),
    )


def inlined(svg: Path) -> str:
    """Return a figure as a data URI: sharp at any size, and no second file."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.read_bytes()).decode()


def summary_line(run: RunFiles) -> list[str]:
    """Return counts of what was compared, in a few words each."""
    counts = {row["source"]: row["n"] for row in run.metrics["table"]}
    words = [
        f"{counts[source]} {name}"
        for source, name in ((ORIGINAL, "originals"), (GENERATED, "generated models"))
        if source in counts
    ]
    if (original := run.tables.get(ORIGINAL)) is not None:
        words.append(f"{original.vectors_MD.shape[1]:,} numbers in each")
        if original.scores["test"].wrong_MN is not None:
            words.append(f"{original.scores['test'].wrong_MN.shape[1]:,} test images")
    return words


def settings_table(config: Mapping[str, Any]) -> Table | None:
    """List every setting by its name on the command line."""
    rows = [[Cell(name, name), Cell(str(value), str(value))] for name, value in flatten(config)]
    return Table([Column("setting"), Column("value")], rows) if rows else None


def provenance_rows(call: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (name, value) of all that was recorded of one call of train_p_diff.py."""
    git = call.get("git") or {}
    commit = git.get("commit", "") + (" with uncommitted changes" if git.get("dirty") else "")
    command = call.get("command", "")
    rows = {
        "command": "python " + " ".join(command) if isinstance(command, list) else str(command),
        "time": readable_time(str(call.get("time", ""))),
        "commit": commit,
        "device": call.get("device"),
        "cores": call.get("cores"),
        "threads": call.get("threads"),
        "python": call.get("python"),
    }
    return [(name, str(value)) for name, value in rows.items() if value]


def readable_time(recorded: str) -> str:
    """Turn 2025-01-31T12:00:00+00:00 into 2025-01-31 12:00 UTC; any other text stays as it is."""
    try:
        return datetime.fromisoformat(recorded).strftime("%Y-%m-%d %H:%M %Z")
    except ValueError:
        return recorded


def versions_table(provenance: Mapping[str, Any]) -> Table | None:
    """Return library versions, a column per call."""
    calls = {
        mode: call["versions"] for mode, call in provenance.items() if isinstance(call, dict) and call.get("versions")
    }
    packages = sorted({package for versions in calls.values() for package in versions})
    rows = [
        [
            Cell(package, package),
            *(Cell(versions.get(package, "–"), versions.get(package)) for versions in calls.values()),
        ]
        for package in packages
    ]
    return Table([Column("library"), *map(Column, calls)], rows) if rows else None


def seconds_table(seconds: Mapping[str, float]) -> Table | None:
    """Return how long each stage took."""
    rows = [[Cell(stage.replace("_", " "), stage), Cell(f"{value:,.1f}", value)] for stage, value in seconds.items()]
    return Table([Column("stage"), Column("seconds")], rows) if rows else None
