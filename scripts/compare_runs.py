"""Many runs in one table, in the shape of the paper's Table 1, and a plot per swept setting.

python -m scripts.compare_runs outputs/*/ae_ddpm --out comparison
"""

import argparse
import sys
from pathlib import Path

from core.command_line.run_command import run_command
from core.report.comparison import comparison_table, read_compared, write_comparison
from core.runtime.errors import UserError


def main() -> None:
    """Write the table in Markdown to stdout; with --out also compare.md, compare.csv and the plots."""
    parser = argparse.ArgumentParser(prog="python -m scripts.compare_runs", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", metavar="run", help="output_dir of a run of train_p_diff.py")
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="write compare.md, compare.csv and a plot per swept setting there"
    )
    arguments = parser.parse_args()
    compared, problems = read_compared(arguments.runs)
    for problem in problems:
        sys.stderr.write(f"left out: {' '.join(problem.split())}\n")
    if not compared:
        raise UserError(f"none of the {len(arguments.runs)} folders holds a run that can be compared")
    sys.stdout.write(comparison_table(compared).markdown() + "\n")
    if arguments.out:
        for path in write_comparison(compared, arguments.out):
            sys.stderr.write(f"wrote {path}\n")


if __name__ == "__main__":
    run_command(main)
