"""Means and t-intervals over trainings, against scipy and by hand."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from core.report.compared_runs import ComparedRun
from core.report.repetitions import (
    Estimate,
    build_repeated_source_table,
    build_repetition_table,
    group_repetitions,
)
from core.report.run_files import RunFiles


def run(seed: int, *, accuracy: float, k: int = 50, baseline: float = 0.5) -> ComparedRun:
    def row(source: str, value: float) -> dict[str, object]:
        return {"source": source, "n": 2, "accuracy_mean": value, "accuracy_best": value + 0.01, "max_iou_mean": 0.9}

    best = {"original": 0.5, "ensemble": 0.5, "p_diff": accuracy}
    metrics = {
        "table": [row("original", baseline), row("p_diff", accuracy)],
        "paper_protocol": best,
        "held_out_protocol": best,
    }
    config = {"seed": seed, "task": {"data": {"dataset": "digits"}, "model": {"name": "tiny"}, "param": {"k": k}}}
    return ComparedRun.from_files(RunFiles(Path(f"run_{seed}_{k}"), metrics, config=config))


def test_the_interval_is_that_of_scipy():
    values = [0.91, 0.94, 0.92, 0.95]
    estimate = Estimate.from_trainings(values)
    low, high = ttest_1samp(values, 0).confidence_interval(0.95)
    assert np.allclose((estimate.mean - estimate.half_width, estimate.mean + estimate.half_width), (low, high))


@pytest.mark.parametrize("values", [[0.9], [], [None, None], [0.9, None, 0.8]])
def test_too_few_trainings_or_a_missing_value_give_no_estimate(values):
    assert Estimate.from_trainings(values) is None


def test_runs_are_grouped_by_everything_but_their_seeds():
    runs = [run(0, accuracy=0.6), run(1, accuracy=0.7), run(0, accuracy=0.8, k=10), run(1, accuracy=0.8, k=10)]
    groups = group_repetitions([*runs, run(0, accuracy=0.9, k=5)])
    assert [[each.settings["task.param.k"] for each in group] for group in groups] == [[50, 50], [10, 10]]


def test_a_row_shows_the_mean_and_the_half_width_in_percent():
    table = build_repetition_table([run(0, accuracy=0.6), run(1, accuracy=0.7)])
    shown = {column.label: cell for column, cell in zip(table.columns, table.rows[0], strict=True)}
    half_width = 12.706204736 * np.std([60, 70], ddof=1) / np.sqrt(2)  # t(0.975) with one degree of freedom
    assert shown["p_diff mean %"].value == pytest.approx(0.65)
    assert shown["p_diff mean %"].text == f"65.00 ± {half_width:.2f}"
    assert shown["trainings"].value == 2


def test_no_repetition_gives_no_table():
    assert build_repetition_table([run(0, accuracy=0.6), run(0, accuracy=0.6, k=10)]) is None


def test_the_difference_is_paired_within_each_training():
    # Accuracy varies from training to training by far more than the difference, which is constant.
    runs = [run(seed, accuracy=level + 0.02, baseline=level) for seed, level in enumerate((0.5, 0.7, 0.9))]
    table = build_repeated_source_table(runs)
    assert [row[0].text for row in table.rows] == ["original", "p_diff"]
    assert [column.label for column in table.columns][1:4] == ["mean %", "best %", "max IoU"], "no empty column"
    assert table.rows[0][-1].text == "+2.00 ± 0.00"
    assert table.rows[1][-1].text == "–"
