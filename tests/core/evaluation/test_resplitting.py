"""Rules for choosing a model, compared on random splits of the held-out items."""

from dataclasses import replace

import numpy as np
import pytest

from core.evaluation.resplitting import NO_CHOICE, compare_on_splits, measure_on_splits
from core.evaluation.scores import Metric, Scores, ScoreTable


def itemized(wrong_MN, loss_MN, groups_N=None) -> Scores:
    wrong_MN, loss_MN = np.asarray(wrong_MN, dtype=bool), np.asarray(loss_MN, dtype=np.float16)
    accuracy_M, loss_M = 1 - wrong_MN.mean(axis=1), loss_MN.astype(np.float64).mean(axis=1)
    return Scores(accuracy_M, loss_M, wrong_MN, loss_MN=loss_MN, groups_N=groups_N)


def table(**splits) -> ScoreTable:
    return ScoreTable("original", np.zeros((len(splits["test"].accuracy_M), 2), np.float32), splits, "id", 0.0)


def make(wrong_MN, loss_MN, num_val, groups_N=None, **more) -> ScoreTable:
    """Make a table whose first `num_val` items are validation items."""
    parts = {"val": slice(num_val), "test": slice(num_val, None)}
    return table(
        **{
            split: itemized(wrong_MN[:, part], loss_MN[:, part], None if groups_N is None else groups_N[part])
            for split, part in parts.items()
        },
        **more,
    )


@pytest.fixture
def random():
    return np.random.default_rng(0)


def test_a_rule_wins_if_its_score_shows_the_true_quality(random):
    """Models differ by 0.1 in accuracy, and their losses show the difference without noise."""
    wrong_MN = random.random((10, 300)) < np.linspace(0.35, 0.45, 10)[:, None]
    measured = measure_on_splits(make(wrong_MN, np.tile(np.linspace(0.1, 1, 10)[:, None], 300), 30), 100)
    assert measured["val_loss"].mean() > measured["val_accuracy"].mean() > measured[NO_CHOICE].mean()
    assert measured["val_loss"].mean() == pytest.approx(1 - wrong_MN[0].mean(), abs=0.01)
    assert measured[NO_CHOICE].mean() == pytest.approx(1 - wrong_MN.mean(), abs=0.01)
    assert set(measured) == {NO_CHOICE, "val_accuracy", "val_loss"}, "the rule on test items is left out"


def test_each_split_keeps_the_sizes_and_never_tests_on_validation_items():
    """One model is right on the chosen validation items only if these are its own: no item can do both."""
    wrong_MN = ~np.eye(8, dtype=bool)  # Model m is right on item m alone.
    measured = measure_on_splits(make(wrong_MN, wrong_MN, 1), 50)
    assert (measured["val_accuracy"] == 0).all(), "the model that is right on the validation item errs on all others"
    np.testing.assert_allclose(measured[NO_CHOICE], 1 / 8)


def test_groups_stay_together_and_numbers_of_groups_are_not_shared_between_splits():
    """Groups 0 and 1 of validation are not groups 0 and 1 of test."""
    groups_N = np.array([0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1, 1, 2, 2, 2])
    wrong_MN = np.repeat(~np.eye(5, dtype=bool), 3, axis=1)
    measured = measure_on_splits(make(wrong_MN, wrong_MN, 6, groups_N), 50)
    assert (measured["val_accuracy"] == 0).all() and len(np.unique(measured["val_loss"])) == 1


def test_a_choice_on_training_items_is_the_same_on_every_split(random):
    wrong_MN = random.random((3, 40)) < 0.5
    train = itemized(np.zeros((3, 2)), [[2, 2], [1, 1], [3, 3]])
    scored = make(wrong_MN, wrong_MN, 20, train=train)
    chosen_Q = measure_on_splits(scored, 30)["train_loss"]
    alone = make(wrong_MN[1:2], wrong_MN[1:2], 20)
    np.testing.assert_allclose(chosen_Q, measure_on_splits(alone, 30)[NO_CHOICE])


def test_runs_share_their_splits_and_the_rules_that_all_of_them_have(random):
    wrong_MN = random.random((3, 40)) < 0.5
    train = itemized(np.zeros((3, 2)), np.ones((3, 2)))
    compared = compare_on_splits([make(wrong_MN, wrong_MN, 20), make(wrong_MN, wrong_MN, 20, train=train)], 30)
    assert set(compared) == {NO_CHOICE, "val_accuracy", "val_loss"}
    for accuracy_PQ in compared.values():
        assert accuracy_PQ.shape == (2, 30)
        np.testing.assert_array_equal(accuracy_PQ[0], accuracy_PQ[1])


def test_another_metric_is_refused_instead_of_compared_by_its_share_of_right_items(random):
    wrong_MN = random.random((4, 30)) < 0.4
    made = make(wrong_MN, wrong_MN, 10)
    rmse = Metric("RMSE", "meters", higher_is_better=False)
    scores = {split: replace(each, metric=rmse) for split, each in made.scores.items()}
    with pytest.raises(ValueError, match="RMSE is no mean over items"):
        measure_on_splits(replace(made, scores=scores), 5)
