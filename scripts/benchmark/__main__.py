"""Measure the stages against the reference procedure, in one run.

    python -m scripts.benchmark [scoring] [sampling] [training] [--repeats 5] [--out FOLDER]

Prints a Markdown table; with --out also benchmark.md and benchmark.json. Run it on a machine with nothing else to do.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from core.report.cells import markdown
from core.runtime.artifacts import replacing, write_json
from core.runtime.provenance import provenance
from core.runtime.trainer import pick_device
from scripts.benchmark import sampling, scoring, training
from scripts.benchmark.contest import measure
from scripts.command_line import run_command

STAGES = {"scoring": scoring, "sampling": sampling, "training": training}


def main() -> None:
    """Measure the chosen stages, all by default."""
    parser = argparse.ArgumentParser(prog="python -m scripts.benchmark", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("stages", nargs="*", metavar="stage", help=f"any of {', '.join(STAGES)}; all by default")
    parser.add_argument("--repeats", type=int, default=5, help="measured pairs per case, after one warm-up (default 5)")
    parser.add_argument("--accelerator", default="auto", help="auto or cpu")
    parser.add_argument("--out", type=Path, help="folder for benchmark.md and benchmark.json")
    chosen = parser.parse_args()
    if unknown := set(chosen.stages) - STAGES.keys():
        parser.error(f"unknown stage {min(unknown)!r}: expected any of {', '.join(STAGES)}")
    if chosen.repeats < 1:
        parser.error(f"--repeats {chosen.repeats}: expected at least 1")
    device = pick_device(chosen.accelerator)
    rows = [measure(contest, chosen.repeats).row() for stage in chosen.stages or STAGES for contest in STAGES[stage].contests(device)]
    machine = provenance()
    text = f"{machine['time']}, {machine['device']}, {machine['threads']} threads, torch {machine['versions']['torch']}, {device.type}\n\n{table(rows)}\n"
    sys.stdout.write(text)
    if chosen.out:
        write_json(chosen.out / "benchmark.json", {"machine": machine, "repeats": chosen.repeats, "rows": rows})
        with replacing(chosen.out / "benchmark.md") as temporary:
            temporary.write_text(text)


def table(rows: list[dict[str, Any]]) -> str:
    """Medians, and the ratio with its range over the pairs."""
    header = ["stage", "case", "per", "ours, ms", "reference, ms", "times faster", "range"]
    cells = [
        [
            row["stage"],
            row["case"],
            row["unit"],
            f"{1000 * row['ours_seconds']:.2f}",
            f"{1000 * row['reference_seconds']:.1f}",
            f"{row['ratio']:.2f}" if row["ratio"] < 10 else f"{row['ratio']:.0f}",
            f"{row['ratio_min']:.3g}–{row['ratio_max']:.3g}",
        ]
        for row in rows
    ]
    return markdown(header, cells)


if __name__ == "__main__":
    run_command(main)
