"""A benchmark of each stage against the reference procedure: time and memory, in Markdown tables.

python -m scripts.benchmark --out outputs/benchmark
python -m scripts.benchmark samplers --run outputs/digits_resnet18/ae_ddpm
"""

import argparse
from pathlib import Path
from typing import Any

import torch

from core.command_line.run_command import run_command
from core.report.cells import markdown
from core.runtime.artifacts import replace_atomically, write_json
from core.runtime.provenance import collect_provenance
from core.runtime.trainer import pick_device
from scripts.benchmark import growth, loading, samplers, sampling, scoring, training
from scripts.benchmark.contest import measure
from scripts.console import make_parser, print_line

# Stages in which our code and the reference procedure run in turn.
CONTESTS = {"scoring": scoring, "sampling": sampling, "loading": loading, "training": training}
STAGES = (*CONTESTS, "growth", "samplers")


def main() -> None:
    """Measure the chosen stages, print a table for each, and write both files if --out is given."""
    chosen = parse_arguments()
    stages = chosen.stages or [stage for stage in STAGES if stage != "samplers" or chosen.run]
    device = pick_device(chosen.accelerator)

    machine, results = collect_provenance(), {}
    torch_version = f"torch {machine['versions']['torch']}"
    parts = [f"{machine['time']}, {machine['device']}, {machine['threads']} threads, {torch_version}, {device.type}"]
    print_line(parts[0])
    for stage in stages:
        results[stage], text = measure_stage(stage, device, chosen)
        parts.append(f"## {stage}\n\n{text}")
        print_line(f"\n{parts[-1]}")
    if not chosen.out:
        print_line("\nNo file was written. Set --out FOLDER to keep benchmark.md and benchmark.json.")
        return
    write_json(chosen.out / "benchmark.json", {"machine": machine, "repeats": chosen.repeats, **results})
    with replace_atomically(chosen.out / "benchmark.md") as temporary:
        temporary.write_text("\n\n".join(parts) + "\n")
    print_line(f"\nwrote: {chosen.out}/benchmark.md and {chosen.out}/benchmark.json")


def parse_arguments() -> argparse.Namespace:
    """Return the options of the command line; end the process if they contradict each other."""
    note = "Run it on a machine that is otherwise idle."
    parser = make_parser("python -m scripts.benchmark", __doc__, note)
    parser.add_argument(
        "stages",
        nargs="*",
        metavar="stage",
        help=f"any of {', '.join(STAGES)} (default: all of them, samplers only with --run)",
    )
    parser.add_argument(
        "--repeats", type=int, default=5, metavar="N", help="measured pairs per case, after one warm-up (default: 5)"
    )
    parser.add_argument("--accelerator", default="auto", metavar="NAME", help="auto or cpu (default: auto)")
    parser.add_argument(
        "--run",
        type=Path,
        metavar="FOLDER",
        help="output_dir of a finished run of train_p_diff.py; the stage samplers uses its generator (no default)",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="folder for benchmark.md and benchmark.json (default: no files)"
    )
    chosen = parser.parse_args()
    if unknown := set(chosen.stages) - set(STAGES):
        parser.error(f"stage {min(unknown)} is unknown. Choose any of {', '.join(STAGES)}")
    if chosen.repeats < 1:
        parser.error(f"--repeats {chosen.repeats} must be at least 1. Set --repeats 1 or more")
    if "samplers" in chosen.stages and not chosen.run:
        parser.error("the stage samplers needs a trained generator. Set --run to the output_dir of a finished run")
    return chosen


def measure_stage(stage: str, device: torch.device, chosen: argparse.Namespace) -> tuple[list[dict[str, Any]], str]:
    """Return the rows of one stage, and their table in Markdown."""
    if stage == "growth":
        return growth.measure_growth(device)
    if stage == "samplers":
        return samplers.compare_samplers(chosen.run, chosen.accelerator)
    rows = [measure(contest, chosen.repeats, device).row() for contest in CONTESTS[stage].make_contests(device)]
    return rows, format_table(rows)


def format_table(rows: list[dict[str, Any]]) -> str:
    """Return a Markdown table of median times, their ratio with its range over the pairs, and peak memory."""
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
