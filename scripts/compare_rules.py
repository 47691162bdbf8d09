"""The rules for choosing one model, compared on many random splits of the images of stored score tables.

python -m scripts.compare_rules outputs/*/ae_ddpm
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from core.command_line.run_command import run_command
from core.evaluation.kinds import GENERATED, ORIGINAL
from core.evaluation.resplitting import compare_on_splits
from core.evaluation.scores import ACCURACY, ScoreTable
from core.evaluation.selection import HELD_OUT_RULE, is_itemized
from core.report.cells import ABSENT, Cell, Column, Table, format_percent
from core.report.repetitions import Estimate
from core.runtime.errors import UserError
from core.runtime.run_directory import RunDirectory

COLUMNS = [
    Column("source"),
    Column("chosen by"),
    Column("test accuracy %", "mean test accuracy of the chosen model over splits and runs"),
    Column(
        f"minus {HELD_OUT_RULE}, points",
        "mean difference ± half of its 95% t-interval over the splits; it covers the luck of the split, but neither "
        "other images nor other trainings",
    ),
    Column("better in runs", "number of runs whose mean over the splits is higher"),
]


def main() -> None:
    """Print one table in Markdown with a row for each source and rule."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.compare_rules", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="run", help="output_dir of a run of train_p_diff.py")
    parser.add_argument(
        "--splits", type=int, default=200, metavar="N", help="number of random splits, at least 2 (default: 200)"
    )
    arguments = parser.parse_args()
    if arguments.splits < 2:
        raise UserError(f"--splits={arguments.splits} must be at least 2. Set --splits=200 for a narrow interval")
    sys.stdout.write(build_table(arguments.runs, arguments.splits).explained_markdown() + "\n")


def build_table(runs: Sequence[Path], num_splits: int) -> Table:
    """Return one row for each source and rule."""
    rows = []
    for source in (ORIGINAL, GENERATED):
        measured = compare_on_splits([read_scores(run, source) for run in runs], num_splits)
        for rule, accuracy_PQ in measured.items():
            difference_PQ = accuracy_PQ - measured[HELD_OUT_RULE]
            rows.append(
                [
                    Cell(source, source),
                    Cell(rule.replace("_", " "), rule),
                    Cell(format_percent(float(accuracy_PQ.mean())), float(accuracy_PQ.mean())),
                    *([Cell(ABSENT), Cell(ABSENT)] if rule == HELD_OUT_RULE else compare(difference_PQ)),
                ]
            )
    return Table(COLUMNS, rows)


def read_scores(run: Path, source: str) -> ScoreTable:
    """Return the score table of one source of a run.

    Raises:
        UserError: The table is missing, measures no accuracy, or holds no losses of each model on each image.
    """
    path = RunDirectory(run).scores(source)
    table = ScoreTable.load(path)
    for split in ("val", "test"):
        scores = table.scores.get(split)
        if scores is not None and scores.metric != ACCURACY:
            raise UserError(
                f"{path} measures {scores.metric.name} on {split} images, but rules are compared by accuracy. "
                "Name runs of classifiers"
            )
        if scores is None or not is_itemized(scores):
            raise UserError(
                f"{path} holds no loss of each model on each {split} image, because an earlier version wrote it. "
                "Run train_p_diff.py mode=test to score the run again"
            )
    return table


def compare(difference_PQ: np.ndarray) -> list[Cell]:
    """Return the cells of the difference between two rules, for P runs and Q splits."""
    estimate = Estimate.from_trainings(difference_PQ.mean(axis=0).tolist())
    better = int((difference_PQ.mean(axis=1) > 0).sum())
    text = ABSENT if estimate is None else estimate.format(100, 2, sign=True)
    return [Cell(text), Cell(f"{better} of {len(difference_PQ)}", better)]


if __name__ == "__main__":
    run_command(main)
