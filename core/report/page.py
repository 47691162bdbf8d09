"""The report of a run as one self-contained HTML page, made from saved files alone."""

import base64
import logging
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from core.evaluation.verdict import Outcome
from core.report import source_table, tables
from core.report.cells import ABSENT, Cell, Column, Table
from core.report.gallery import WORTH_FIGURES, Exhibit, draw_all
from core.report.metric_words import MetricWords
from core.report.overview import choose_key_numbers, describe_run
from core.report.published import build_published_table
from core.report.run_files import RunFiles, read_run
from core.report.worth_table import build_worth_table
from core.runtime.artifacts import replace_atomically
from core.runtime.run_directory import RunDirectory
from core.runtime.settings import flatten

log = logging.getLogger(__name__)

TEMPLATE = "page.html.j2"
OUTCOME_TONES = {Outcome.DOMINATES: "good", Outcome.IS_DOMINATED: "bad"}  # a trade-off and a tie are neutral


def write_page(run: RunDirectory | Path) -> Path:
    """Write report/{index.html, table.md, scores.csv, figures/*} of a run and return the path of the page.

    The page and the log name all other files that are missing or damaged.

    Raises:
        UserError: `metrics.json` is missing or damaged, or the folder cannot be written to.
    """
    layout = run if isinstance(run, RunDirectory) else RunDirectory(run)
    files = read_run(layout.path)
    tables.write_report(files.metrics, files.verdict, layout.report, title=files.title)
    exhibits = draw_all(files, layout.report / "figures")
    page = layout.report / "index.html"
    with replace_atomically(page) as temporary:
        temporary.write_text(render(files, exhibits))
    return page


def render(run: RunFiles, exhibits: list[Exhibit]) -> str:
    """Return the page's HTML with the figures inside it."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    metrics = run.metrics
    inlined = [(exhibit, inline_figure(exhibit.svg)) for exhibit in exhibits]
    return environment.get_template(TEMPLATE).render(
        title=run.title,
        words=MetricWords.read(metrics),
        overview=describe_run(run),
        problems=run.problems,
        sentences=tables.read_sentences(metrics),
        key_numbers=choose_key_numbers(run.verdict),
        comparisons=tables.build_comparison_table(run.verdict),
        sources=source_table.build_source_table(metrics),
        similarity=source_table.build_similarity_table(metrics),
        worth=build_worth_table(metrics),
        exhibits=[inline for inline in inlined if inline[0].name not in WORTH_FIGURES],
        worth_exhibits=[inline for inline in inlined if inline[0].name in WORTH_FIGURES],
        protocols=tables.build_protocol_table(metrics),
        published=build_published_table(run),
        selection=tables.build_selection_table(metrics),
        combination=tables.build_combination_table(metrics),
        settings=build_settings_table(run.config),
        seeds={name: value for name, value in flatten(run.config) if name.split(".")[-1].endswith("seed")},
        provenance=[(mode, provenance_rows(call)) for mode, call in run.provenance.items() if isinstance(call, dict)],
        versions=build_versions_table(run.provenance),
        seconds=build_seconds_table(metrics.get("seconds", {})),
        outcome_label=tables.OUTCOME_LABEL,
        outcome_tone=lambda outcome: OUTCOME_TONES.get(outcome, "neutral"),
    )


def inline_figure(svg: Path) -> str:
    """Return a figure as a data URI, so that the page needs no second file."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.read_bytes()).decode()


def build_settings_table(config: Mapping[str, Any]) -> Table | None:
    """Return every setting by its name on the command line."""
    rows = [[Cell(name, name), Cell(str(value), str(value))] for name, value in flatten(config)]
    return Table([Column("setting"), Column("value")], rows) if rows else None


def provenance_rows(call: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the (name, value) pairs that are recorded about one call of train_p_diff.py."""
    git = call.get("git") or {}
    commit = git.get("commit", "") + (" with uncommitted changes" if git.get("dirty") else "")
    command = call.get("command", "")
    rows = {
        "command": "python " + " ".join(command) if isinstance(command, list) else str(command),
        "time": format_time(str(call.get("time", ""))),
        "commit": commit,
        "device": call.get("device"),
        "cores": call.get("cores"),
        "threads": call.get("threads"),
        "python": call.get("python"),
    }
    return [(name, str(value)) for name, value in rows.items() if value]


def format_time(recorded: str) -> str:
    """Return 2025-01-31 12:00 UTC for 2025-01-31T12:00:00+00:00, and any other text unchanged."""
    try:
        return datetime.fromisoformat(recorded).strftime("%Y-%m-%d %H:%M %Z")
    except ValueError:
        return recorded


def build_versions_table(provenance: Mapping[str, Any]) -> Table | None:
    """Return library versions with one column per call."""
    calls = {
        mode: call["versions"] for mode, call in provenance.items() if isinstance(call, dict) and call.get("versions")
    }
    packages = sorted({package for versions in calls.values() for package in versions})
    rows = [
        [
            Cell(package, package),
            *(Cell(versions.get(package, ABSENT), versions.get(package)) for versions in calls.values()),
        ]
        for package in packages
    ]
    return Table([Column("library"), *map(Column, calls)], rows) if rows else None


def build_seconds_table(seconds: Mapping[str, float]) -> Table | None:
    """Return the seconds that each stage took."""
    rows = [[Cell(stage.replace("_", " "), stage), Cell(f"{value:,.1f}", value)] for stage, value in seconds.items()]
    return Table([Column("stage"), Column("seconds")], rows) if rows else None
