"""Every source is scored once, kept, and taken again only for the same question."""

import logging

import numpy as np
import pytest
import torch

from core.evaluation.evaluate import evaluate
from core.evaluation.scores import Scores
from core.runtime.run_directory import RunDirectory
from tests.core.tiny import damaged_copies

MADE = {"original": torch.full((4, 2), 0.25), "ensemble": torch.full((1, 2), 0.5), "p_diff": torch.full((3, 2), 0.75), "gaussian": torch.zeros(2, 2)}


@pytest.fixture
def run(tmp_path):
    return RunDirectory(tmp_path / "run")


@pytest.fixture
def score(run):
    """`score(identity, reuse)` gives the tables, and the (source, split) pairs that were really scored."""

    def session(identity="id", reuse=True):
        made, scored = [], []

        def vectors_of(source):
            return lambda: made.append(source) or MADE[source]

        def score_on(split):
            def score_fn(vectors_MD):
                scored.append((made[-1], split))
                accuracy_M = vectors_MD[:, 0].double().numpy() + (split == "val")
                return Scores(accuracy_M, 1 - accuracy_M, np.zeros((len(vectors_MD), 5), dtype=bool))

            return score_fn

        score_fns = {split: score_on(split) for split in ("val", "test")}
        tables = evaluate({source: vectors_of(source) for source in MADE}, score_fns, run, identity=identity, reuse=reuse)
        return tables, scored

    return session


ALL = [("original", "val"), ("original", "test"), ("ensemble", "val"), ("ensemble", "test"), ("p_diff", "val"), ("p_diff", "test"), ("gaussian", "test")]


def test_all_sources_are_scored_on_test_and_those_of_the_protocol_on_validation(score):
    tables, scored = score()
    assert scored == ALL and list(tables) == list(MADE)
    for source, table in tables.items():
        assert table.source == source
        np.testing.assert_array_equal(table.vectors_MD, MADE[source].numpy())
        np.testing.assert_allclose(table.scores["test"].accuracy_M, MADE[source][:, 0].numpy())
        if "val" in table.scores:
            np.testing.assert_allclose(table.scores["val"].accuracy_M, MADE[source][:, 0].numpy() + 1)


def test_the_same_question_is_not_scored_again(score):
    first, _ = score()
    again, scored = score()
    assert scored == []
    for source, table in again.items():
        assert table.seconds == first[source].seconds
        np.testing.assert_array_equal(table.scores["test"].accuracy_M, first[source].scores["test"].accuracy_M)


@pytest.mark.parametrize("question", [{"identity": "other"}, {"reuse": False}])
def test_another_question_is_scored_anew_and_kept(score, question):
    score()
    assert score(**question)[1] == ALL
    assert score(identity=question.get("identity", "id"))[1] == []


def test_a_damaged_table_is_scored_anew_and_named(score, run, caplog):
    score()
    run.scores("gaussian").write_bytes(dict(damaged_copies(run.scores("gaussian")))["half"])
    with caplog.at_level(logging.WARNING):
        assert score()[1] == [("gaussian", "test")]
    assert "gaussian.npz" in caplog.text
    assert score()[1] == []


def test_an_interrupted_scoring_goes_on_with_the_next_source(score, run):
    score()
    run.scores("p_diff").unlink()
    assert score()[1] == [("p_diff", "val"), ("p_diff", "test")]
