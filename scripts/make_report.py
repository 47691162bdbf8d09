"""The report of a run, built again from its saved files without network access, GPU or images.

python -m scripts.make_report outputs/digits_resnet18/ae_ddpm
"""

import argparse
import sys
from pathlib import Path

from core.command_line.run_command import run_command
from core.report.page import write_page
from core.runtime.errors import UserError


def main() -> None:
    """Write report/{index.html, table.md, scores.csv, figures/} into the run's folder and print the page's path."""
    parser = argparse.ArgumentParser(prog="python -m scripts.make_report", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, help="output_dir of a run of train_p_diff.py")
    run = parser.parse_args().run
    if not run.is_dir():
        raise UserError(f"folder {run} not found. Use the output_dir of a run of train_p_diff.py")
    sys.stdout.write(f"{write_page(run)}\n")


if __name__ == "__main__":
    run_command(main)
