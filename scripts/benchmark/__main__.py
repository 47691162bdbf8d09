"""Measure the stages against the reference procedure, in one run.

    python -m scripts.benchmark [--repeats 5] [--out FOLDER] [STAGE ...]

A stage is scoring, sampling, loading, training, growth or samplers; by default all of them run.

Prints Markdown tables; with --out also benchmark.md and benchmark.json. Run it on a machine with nothing else to do.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

from core.command_line.run_command import run_command
from core.report.cells import markdown
from core.runtime.artifacts import replacing, write_json
from core.runtime.provenance import provenance
from core.runtime.trainer import pick_device
from scripts.benchmark import growth, loading, samplers, sampling, scoring, training
from scripts.benchmark.contest import measure

# stages in which ours runs against the reference
CONTESTS = {"scoring": scoring, "sampling": sampling, "loading": loading, "training": training}
SECTIONS = (*CONTESTS, "growth", "samplers")


def main() -> None:
    """Measure the chosen stages; by default all, and the samplers if --run is given."""
    parser = argparse.ArgumentParser(prog="python -m scripts.benchmark", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("stages", nargs="*", metavar="stage", help=f"any of {', '.join(SECTIONS)}")
    parser.add_argument("--repeats", type=int, default=5, help="measured pairs per case, after one warm-up (default 5)")
    parser.add_argument("--accelerator", default="auto", help="auto or cpu")
    parser.add_argument(
        "--run", type=Path, help="a finished run of train_p_diff.py, whose generator the samplers are compared on"
    )
    parser.add_argument("--out", type=Path, help="folder for benchmark.md and benchmark.json")
    chosen = parser.parse_args()
    if unknown := set(chosen.stages) - set(SECTIONS):
        parser.error(f"unknown stage {min(unknown)!r}: expected any of {', '.join(SECTIONS)}")
    if chosen.repeats < 1:
        parser.error(f"--repeats {chosen.repeats}: expected at least 1")
    if "samplers" in chosen.stages and not chosen.run:
        parser.error("samplers are compared on a trained generator: give --run outputs/… of a finished run")
    stages = chosen.stages or [stage for stage in SECTIONS if stage != "samplers" or chosen.run]
    device = pick_device(chosen.accelerator)

    machine, results = provenance(), {}
    torch_version = f"torch {machine['versions']['torch']}"
    parts = [f"{machine['time']}, {machine['device']}, {machine['threads']} threads, {torch_version}, {device.type}"]
    for stage in stages:
        results[stage], text = measure_stage(stage, device, chosen)
        parts.append(f"## {stage}\n\n{text}")
        sys.stdout.write("\n\n".join(parts if len(parts) == 2 else ["", parts[-1]]))
        sys.stdout.flush()
    sys.stdout.write("\n")
    if chosen.out:
        write_json(chosen.out / "benchmark.json", {"machine": machine, "repeats": chosen.repeats, **results})
        with replacing(chosen.out / "benchmark.md") as temporary:
            temporary.write_text("\n\n".join(parts) + "\n")


def measure_stage(stage: str, device: torch.device, chosen: argparse.Namespace) -> tuple[list[dict[str, Any]], str]:
    """Return the rows of one stage, and their table in Markdown."""
    if stage == "growth":
        return growth.section(device)
    if stage == "samplers":
        return samplers.section(chosen.run, chosen.accelerator)
    rows = [measure(contest, chosen.repeats, device).row() for contest in CONTESTS[stage].contests(device)]
    return rows, table(rows)


def table(rows: list[dict[str, Any]]) -> str:
    """Tabulate medians, the ratio with its range over the pairs, and the memory that each side took."""
    header = ["case", "per", "ours, ms", "reference, ms", "times faster", "range", "ours, MB", "reference, MB"]
    cells = [
        [
            row["case"],
            row["unit"],
            f"{1000 * row['ours_seconds']:.3g}",
            f"{1000 * row['reference_seconds']:.3g}",
            f"{row['ratio']:.2f}" if row["ratio"] < 10 else f"{row['ratio']:.0f}",
            f"{row['ratio_min']:.3g}–{row['ratio_max']:.3g}",
            *(
                "–" if row[side] is None else f"{row[side] / 1e6:.0f}"
                for side in ("ours_peak_bytes", "reference_peak_bytes")
            ),
        ]
        for row in rows
    ]
    return markdown(header, cells)


if __name__ == "__main__":
    run_command(main)
