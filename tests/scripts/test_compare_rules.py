"""The command line that compares rules for choosing a model: its table, and its refusals."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from core.command_line.run_command import run_command
from core.evaluation.scores import Metric, Scores, ScoreTable
from core.runtime.artifacts import read_json
from scripts import compare_rules


@pytest.fixture
def tables(monkeypatch) -> dict[str, ScoreTable]:
    """Return score tables by path that stand for files: two runs, in which the loss shows the quality of a model."""
    made: dict[str, ScoreTable] = {}
    for seed, run in enumerate(("a", "b")):
        random = np.random.default_rng(seed)
        for source in ("original", "p_diff"):
            scores = {}
            for split, num_items in (("val", 30), ("test", 200)):
                wrong_MN = random.random((8, num_items)) < np.linspace(0.3, 0.5, 8)[:, None]
                loss_MN = np.tile(np.linspace(0.3, 0.5, 8)[:, None], num_items).astype(np.float16)
                scores[split] = Scores(1 - wrong_MN.mean(axis=1), loss_MN.mean(axis=1), wrong_MN, loss_MN=loss_MN)
            made[f"{run}/scores/{source}.npz"] = ScoreTable(source, np.zeros((8, 2), np.float32), scores, "id", 0.0)
    monkeypatch.setattr(ScoreTable, "load", staticmethod(lambda path: made[path.as_posix()]))
    return made


def call(monkeypatch, *words) -> int | str | None:
    """Return the exit status, or the error for status 1."""
    monkeypatch.setattr(sys, "argv", ["compare_rules", *words])
    with pytest.raises(SystemExit) as stopped:
        run_command(compare_rules.main)
    return stopped.value.code


def test_each_source_and_rule_is_a_row(tables, monkeypatch, capsys):
    assert call(monkeypatch, "a", "b", "--splits", "20") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert [row[:2] for row in rows] == [
        [source, rule] for source in ("original", "p_diff") for rule in ("no choice", "val accuracy", "val loss")
    ]
    none, accuracy, loss = rows[:3]
    assert float(none[2]) == pytest.approx(60, abs=3) and float(loss[2]) > float(accuracy[2]) > float(none[2])
    assert loss[3:] == ["–", "–"] and accuracy[4] == "0 of 2" and none[4] == "0 of 2"
    mean, half_width = accuracy[3].replace("−", "-").split(" ± ")
    assert float(mean) == pytest.approx(float(accuracy[2]) - float(loss[2]), abs=0.011) and 0 < float(half_width) < 3


def test_the_numbers_are_written_if_asked_for(tables, monkeypatch, capsys, tmp_path):
    assert call(monkeypatch, "a", "b", "--splits", "20", "--out", str(tmp_path / "rules.json")) == 0
    rows = read_json(tmp_path / "rules.json")["rows"]
    assert compare_rules.build_table(rows).markdown() in capsys.readouterr().out
    assert len(rows[0]["difference_of_splits"]) == 20 and len(rows[0]["difference_of_runs"]) == 2


def test_differences_are_paired_by_split_and_their_interval_is_over_splits():
    difference_PQ = np.array([[0.01, 0.02, 0.03], [0.03, 0.04, 0.05]])

    def compare(difference_PQ):
        return compare_rules.compare(difference_PQ.mean(axis=0).tolist(), difference_PQ.mean(axis=1).tolist())

    interval, better = compare(difference_PQ)
    assert interval.text == "+3.00 ± 2.48" and better.text == "2 of 2"  # t(0.975, 2) · 1 point / √3
    assert compare(difference_PQ - 0.03)[1].text == "1 of 2"
    assert [cell.text for cell in compare_rules.compare(None, None)] == ["–", "–"]


def test_a_run_without_losses_of_images_is_refused(tables, monkeypatch):
    path = Path("b/scores/p_diff.npz")
    scored = tables[path.as_posix()]
    val = replace(scored.scores["val"], loss_MN=None)
    tables[path.as_posix()] = replace(scored, scores={**scored.scores, "val": val})
    assert call(monkeypatch, "a", "b") == (
        f"error: {path} holds no loss of each model on each val image, because an earlier version wrote it. "
        "Run train_p_diff.py mode=test to score the run again"
    )
    tables[path.as_posix()] = replace(scored, scores={"test": scored.scores["test"]})
    assert f"{path} holds no loss" in call(monkeypatch, "a", "b")


def test_a_run_without_accuracies_is_refused_for_its_metric(tables, monkeypatch):
    scored = tables["b/scores/p_diff.npz"]
    error = replace(scored.scores["val"], metric=Metric("error", "meters", higher_is_better=False))
    tables["b/scores/p_diff.npz"] = replace(scored, scores={**scored.scores, "val": error})
    assert "measures error on val images, but rules are compared by accuracy" in call(monkeypatch, "a", "b")


def test_missing_files_and_too_few_splits_are_refused(monkeypatch, tmp_path):
    assert "original.npz" in call(monkeypatch, str(tmp_path))
    assert "--splits=1 must be at least 2" in call(monkeypatch, str(tmp_path), "--splits", "1")
