"""The text and the JSON of a whole check."""

import subprocess
from collections.abc import Sequence
from typing import Any

from core.report.cells import markdown
from core.runtime.provenance import provenance
from scripts.gpu_check.findings import as_markdown, cell
from scripts.gpu_check.parts import Part
from scripts.gpu_check.running import Outcome

REHEARSED = "a rehearsal at tiny sizes on the CPU: it shows that every part runs, its times mean nothing"


def plan(parts: Sequence[Part]) -> str:
    """Say what each part would do, for a machine that cannot do it."""
    rows = [[part.name, part.about, f"{part.limit_s / 60:.3g} min", part.goal] for part in parts]
    table = markdown(["part", "does", "limit", "goal"], rows)
    explained = "There is no GPU here, so nothing was run. On a GPU these parts run; --rehearse runs them on the CPU."
    return f"{explained}\n\n{table}"


def driver() -> str | None:
    """Return the version of NVIDIA's driver; None where its tool is missing."""
    try:
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        found = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30)
        return found.stdout.splitlines()[0].strip()
    except (OSError, subprocess.SubprocessError, IndexError):
        return None


def machine_line(machine: dict[str, Any], rehearse: bool) -> str:
    """Name the card, the driver, the versions, the commit and the date."""
    git = machine["git"]
    commit = f"commit {git['commit'][:10]}{' with changes' if git['dirty'] else ''}" if git else "no git checkout"
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    card = REHEARSED if rehearse else f"{machine['device']}, driver {machine['driver'] or 'unknown'}"
    return f"{machine['time']}, {card}, {machine['cores']} CPU cores, Python {machine['python']}, {versions}, {commit}"


def as_json(outcomes: Sequence[Outcome], rehearse: bool) -> dict[str, Any]:
    """Return everything that was found."""
    machine = provenance() | {"driver": driver()}
    return {
        "machine": machine,
        "rehearsal": rehearse,
        "parts": [{**outcome.row(), **outcome.findings} for outcome in outcomes],
    }


def as_text(outcomes: Sequence[Outcome], rehearse: bool) -> str:
    """Return the Markdown page: the machine, the tables of each part, and at the end which parts passed."""
    blocks = [machine_line(provenance() | {"driver": driver()}, rehearse)]
    for outcome in outcomes:
        blocks.append(f"### {outcome.part.name}")
        blocks += [as_markdown(table) for table in outcome.findings["tables"]]
        blocks += [f"* failed: {failure['case']}: {failure['error']}" for failure in outcome.findings["failures"]]
    rows = [outcome.row() for outcome in outcomes]
    blocks += ["### parts", markdown(list(rows[0]), [[cell(value) for value in row.values()] for row in rows])]
    return "\n\n".join(blocks)
