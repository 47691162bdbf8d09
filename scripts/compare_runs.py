"""A comparison of several runs: one table like the paper's Table 1, and one figure per swept setting.

python -m scripts.compare_runs outputs/*/ae_ddpm --out comparison
"""

import argparse
import sys
from pathlib import Path

from core.command_line.run_command import run_command
from core.report.compared_runs import read_runs
from core.report.comparison import describe_comparison, write_comparison
from core.runtime.errors import UserError


def main() -> None:
    """Print the table in Markdown; with --out, also write compare.md, compare.csv and the figures."""
    parser = argparse.ArgumentParser(prog="python -m scripts.compare_runs", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", metavar="run", help="output_dir of a run, or a folder of runs")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="write compare.md, compare.csv and one figure per swept setting into this folder",
    )
    arguments = parser.parse_args()
    runs, problems = read_runs([run for folder in arguments.runs for run in find_runs(folder)])
    for problem in problems:
        sys.stderr.write(f"skipped: {' '.join(problem.split())}\n")
    if not runs:
        raise UserError(
            f"none of the {len(arguments.runs)} folders holds a run to compare. "
            "Use the output_dir of runs of train_p_diff.py"
        )
    sys.stdout.write(describe_comparison(runs) + "\n")
    if arguments.out:
        for path in write_comparison(runs, arguments.out):
            sys.stderr.write(f"wrote {path}\n")


def find_runs(folder: Path) -> list[Path]:
    """Return the folder itself if it holds a run, else the runs below it; the folder if there are none."""
    if (folder / "metrics.json").is_file():
        return [folder]
    return sorted(path.parent for path in folder.rglob("metrics.json")) or [folder]


if __name__ == "__main__":
    run_command(main)
