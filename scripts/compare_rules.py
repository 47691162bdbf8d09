"""The rules for choosing one model, compared on many random splits of the images of stored score tables.

python -m scripts.compare_rules outputs/*/ae_ddpm
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core.command_line.run_command import run_command
from core.evaluation.kinds import GENERATED, ORIGINAL
from core.evaluation.resplitting import compare_on_splits
from core.evaluation.scores import ACCURACY, ScoreTable
from core.evaluation.selection import HELD_OUT_RULE, is_itemized
from core.report.cells import ABSENT, Cell, Column, Table, format_percent
from core.report.repetitions import Estimate
from core.runtime.artifacts import write_json
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
    """Print one table in Markdown with a row for each source and rule, and write its numbers if asked to."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.compare_rules", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="run", help="output_dir of a run of train_p_diff.py")
    parser.add_argument(
        "--splits", type=int, default=200, metavar="N", help="number of random splits, at least 2 (default: 200)"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON file for the numbers at full precision")
    arguments = parser.parse_args()
    if arguments.splits < 2:
        raise UserError(f"--splits={arguments.splits} must be at least 2. Set --splits=200 for a narrow interval")
    rows = measure_rules(arguments.runs, arguments.splits)
    if arguments.out:
        write_json(arguments.out, {"rows": rows})
    sys.stdout.write(build_table(rows).explained_markdown() + "\n")


def measure_rules(runs: Sequence[Path], num_splits: int) -> list[dict[str, Any]]:
    """Return the numbers of each source and rule over P runs and Q splits; accuracies and differences are in [-1, 1].

    The rule of the held-out protocol has no difference. The differences of the other rules from it are means over the
    runs, one for each split, and means over the splits, one for each run.
    """
    rows: list[dict[str, Any]] = []
    for source in (ORIGINAL, GENERATED):
        measured = compare_on_splits([read_scores(run, source) for run in runs], num_splits)
        for rule, accuracy_PQ in measured.items():
            row: dict[str, Any] = {"source": source, "rule": rule, "accuracy": float(accuracy_PQ.mean())}
            if rule != HELD_OUT_RULE:
                difference_PQ = accuracy_PQ - measured[HELD_OUT_RULE]
                row |= {
                    "difference_of_splits": difference_PQ.mean(axis=0).tolist(),
                    "difference_of_runs": difference_PQ.mean(axis=1).tolist(),
                }
            rows.append(row)
    return rows


def build_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return the table of the numbers that `measure_rules` returned."""
    return Table(
        COLUMNS,
        [
            [
                Cell(row["source"], row["source"]),
                Cell(row["rule"].replace("_", " "), row["rule"]),
                Cell(format_percent(row["accuracy"]), row["accuracy"]),
                *compare(row.get("difference_of_splits"), row.get("difference_of_runs")),
            ]
            for row in rows
        ],
    )


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


def compare(of_splits: Sequence[float] | None, of_runs: Sequence[float] | None) -> list[Cell]:
    """Return the cells of the difference between two rules; dashes for a rule without one."""
    if of_splits is None or of_runs is None:
        return [Cell(ABSENT), Cell(ABSENT)]
    estimate = Estimate.from_trainings(of_splits)
    better = sum(difference > 0 for difference in of_runs)
    text = ABSENT if estimate is None else estimate.format(100, 2, sign=True)
    return [Cell(text), Cell(f"{better} of {len(of_runs)}", better)]


if __name__ == "__main__":
    run_command(main)
