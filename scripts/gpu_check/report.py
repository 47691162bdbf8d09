"""The results of the whole check as Markdown and JSON, and the plan that is printed without a GPU."""

import subprocess
from collections.abc import Sequence
from typing import Any

from core.report.cells import markdown
from core.runtime.provenance import collect_provenance
from scripts.gpu_check.findings import format_table, format_value
from scripts.gpu_check.parts import Part
from scripts.gpu_check.running import Outcome

REHEARSED = "rehearsal at tiny sizes on the CPU: it shows that the parts run, and its times mean nothing"


def describe_plan(parts: Sequence[Part]) -> str:
    """Return a description of the parts for a machine without a GPU; the last line says that nothing was measured."""
    rows = [[part.name, part.about, f"{part.limit_s / 60:.3g} min", part.goal] for part in parts]
    table = markdown(["part", "does", "limit", "goal"], rows)
    return (
        f"No GPU was found. On a machine with a GPU these parts run:\n\n{table}\n\n"
        "Nothing was measured. To run every part at a tiny size on the CPU: bash scripts/gpu_check.sh --rehearse"
    )


def read_driver_version() -> str | None:
    """Return the version of NVIDIA's driver, or None if nvidia-smi is missing or fails."""
    try:
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        found = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30)
        return found.stdout.splitlines()[0].strip()
    except (OSError, subprocess.SubprocessError, IndexError):
        return None


def describe_machine(machine: dict[str, Any], rehearse: bool) -> str:
    """Return one line with the date, the GPU, its driver, the versions and the commit."""
    git = machine["git"]
    commit = f"commit {git['commit'][:10]}{' with changes' if git['dirty'] else ''}" if git else "no git checkout"
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    gpu = REHEARSED if rehearse else f"{machine['device']}, driver {machine['driver'] or 'unknown'}"
    return f"{machine['time']}, {gpu}, {machine['cores']} CPU cores, Python {machine['python']}, {versions}, {commit}"


def collect_results(outcomes: Sequence[Outcome], rehearse: bool) -> dict[str, Any]:
    """Return the content of gpu_check.json: the machine, and the outcome and findings of each part."""
    machine = collect_provenance() | {"driver": read_driver_version()}
    return {
        "machine": machine,
        "rehearsal": rehearse,
        "parts": [{**outcome.row(), **outcome.findings} for outcome in outcomes],
    }


def format_page(outcomes: Sequence[Outcome], rehearse: bool) -> str:
    """Return the Markdown page: the machine, the tables of each part, and a table of which parts passed."""
    blocks = [describe_machine(collect_provenance() | {"driver": read_driver_version()}, rehearse)]
    for outcome in outcomes:
        blocks.append(f"### {outcome.part.name}")
        blocks += [format_table(table) for table in outcome.findings["tables"]]
        blocks += [f"* failed: {failure['case']}: {failure['error']}" for failure in outcome.findings["failures"]]
    rows = [outcome.row() for outcome in outcomes]
    blocks += ["### parts", markdown(list(rows[0]), [[format_value(value) for value in row.values()] for row in rows])]
    return "\n\n".join(blocks)
