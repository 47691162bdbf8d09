"""The choice of one model: the rule of the held-out protocol, and what a user gets when the choice is resampled."""

from dataclasses import replace

import numpy as np
import pytest

from core.evaluation import selection
from core.evaluation.scores import ACCURACY, MAX_IOU, Scores, ScoreTable
from core.evaluation.selection import measure_selections, pick_held_out, resample_choices, resample_scores


def itemized(wrong_MN, loss_MN=None, groups_N=None, metric=ACCURACY) -> Scores:
    wrong_MN = np.asarray(wrong_MN, dtype=bool)
    loss_MN = (0.5 + wrong_MN if loss_MN is None else np.asarray(loss_MN)).astype(np.float16)
    loss_M = loss_MN.astype(np.float64).mean(axis=1)
    return Scores(1 - wrong_MN.mean(axis=1), loss_M, wrong_MN, metric=metric, loss_MN=loss_MN, groups_N=groups_N)


def table(source="original", **splits) -> ScoreTable:
    num_models = len(splits["test"].accuracy_M)
    return ScoreTable(source, np.zeros((num_models, 2), np.float32), splits, "id", 0.0)


@pytest.fixture
def random():
    return np.random.default_rng(0)


def chance_table(random, num_val=40, num_models=30):
    """Make a table of models whose true accuracy is 0.5, so that every choice is luck."""
    return table(
        **{split: itemized(random.random((num_models, n)) < 0.5) for split, n in (("val", num_val), ("test", 400))}
    )


def test_the_held_out_protocol_follows_the_named_rule(monkeypatch):
    # The first model is right more often on validation, and the second one has the lower loss there.
    val = itemized([[0, 0, 0, 1], [0, 0, 1, 1]], [[1, 1, 1, 1], [0.5, 0.5, 0.5, 0.5]])
    scored = table(val=val, test=itemized([[0, 1], [0, 1]]))
    monkeypatch.setattr(selection, "HELD_OUT_RULE", "val_accuracy")
    assert pick_held_out(scored) == 0
    monkeypatch.setattr(selection, "HELD_OUT_RULE", "val_loss")
    assert pick_held_out(scored) == 1
    assert pick_held_out(table("ensemble", test=itemized([[0, 1]]))) == 0, "one model needs no choice"


def test_a_choice_by_luck_promises_more_than_a_user_gets(random):
    scored = chance_table(random)
    best = scored.scores["test"].accuracy_M.max()
    row = next(row for row in measure_selections({"original": scored}) if row["chosen_by"] == "val_accuracy")
    low, high = row["expected_interval"]
    assert low < row["expected_accuracy"] < high and row["expected_accuracy"] < best
    assert row["expected_accuracy"] == pytest.approx(0.5, abs=0.03)
    # One pick varies by the images, with √(0.25 / 400), and by the models, whose accuracies vary as much.
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(2 * 0.25 / 400), rel=0.25)


def test_a_model_that_is_always_best_is_expected_as_often_as_it_is_on_offer(random):
    """A bootstrap sample of 4 models misses each one with probability (3/4)^4."""
    wrong_MN = np.zeros((4, 60), dtype=bool)
    wrong_MN[1:, :30] = True
    expected = resample_choices(table(val=itemized(wrong_MN), test=itemized(wrong_MN)), seed=0, draws=4000)
    missing = 0.75**4
    for rule in ("val_accuracy", "val_loss", "test_accuracy"):
        assert expected[rule]["expected_accuracy"] == pytest.approx(1 - missing / 2, abs=0.01)


def test_only_resampled_validation_images_make_the_choice_waver():
    """Two models tie but for one image of 20, which is missing from e⁻¹ of the samples. Loss breaks the tie."""
    val_MN, test_MN = np.zeros((2, 20), dtype=bool), np.zeros((2, 10), dtype=bool)
    val_MN[1, 0] = test_MN[1] = True
    loss_MN = np.array([[1.0] * 20, [0.1] * 20])
    offers = [np.arange(2)] * 4000
    drawn = resample_scores(itemized(val_MN, loss_MN), seed=0, draws=4000)
    assert drawn.pick_each(Scores.pick_best, offers).mean() == pytest.approx((1 - 1 / 20) ** 20, abs=0.02)
    assert (drawn.pick_each(Scores.pick_least_loss) == 1).all()


def test_items_are_resampled_in_groups(random):
    """Three versions of each image that are right or wrong together are one image."""
    wrong_MN = np.repeat(random.random((1, 50)) < 0.5, 3, axis=1)
    spreads = [
        resample_scores(itemized(wrong_MN, groups_N=groups_N), 0, 2000).accuracy_RM.std()
        for groups_N in (np.repeat(np.arange(50), 3), None)
    ]
    assert spreads[0] / spreads[1] == pytest.approx(np.sqrt(3), rel=0.05)


@pytest.mark.parametrize("entries", [1, 70, 10_000])
def test_resampled_scores_do_not_depend_on_the_size_of_parts(random, entries, monkeypatch):
    scores = itemized(random.random((5, 30)) < 0.4, random.random((5, 30)), np.repeat(np.arange(10), 3))
    once = resample_scores(scores, 3, 50)
    monkeypatch.setattr(selection, "ENTRIES", entries)
    for drawn, expected in zip(resample_scores(scores, 3, 50), once, strict=True):
        np.testing.assert_allclose(drawn, expected, atol=1e-12)


def test_resampled_scores_are_centered_on_the_scores(random):
    scores = itemized(random.random((5, 200)) < 0.4, random.random((5, 200)))
    drawn = resample_scores(scores, 0, 2000)
    np.testing.assert_allclose(drawn.accuracy_RM.mean(axis=0), scores.accuracy_M, atol=0.003)
    np.testing.assert_allclose(drawn.loss_RM.mean(axis=0), scores.loss_M, atol=0.003)


def test_a_loss_that_is_not_finite_hides_no_other_model():
    loss_MN = np.array([[np.inf] + [0.1] * 9, [np.nan] + [0.1] * 9, [0.5] * 10])
    drawn = resample_scores(itemized(np.zeros((3, 10)), loss_MN), 0, 200)
    assert np.isfinite(drawn.loss_RM).all()
    picks_R = drawn.pick_each(Scores.pick_least_loss)
    assert set(picks_R) == {0, 2}, "the first model is best on samples without the infinite loss"


@pytest.mark.parametrize("lacking", ["loss_MN", "wrong_MN"])
def test_rules_without_scores_of_items_have_no_expectation(random, lacking):
    scored = chance_table(random)
    train = replace(itemized(random.random((30, 20)) < 0.5), **{lacking: None})
    rows = measure_selections({"original": replace(scored, scores={**scored.scores, "train": train})})
    assert {row["chosen_by"] for row in rows if "expected_accuracy" in row} == {
        "val_accuracy",
        "val_loss",
        "test_accuracy",
    }
    assert "train_loss" in {row["chosen_by"] for row in rows}
    test = replace(scored.scores["test"], **{lacking: None})
    rows = measure_selections({"original": replace(scored, scores={**scored.scores, "test": test})})
    assert rows and not any("expected_accuracy" in row or "expected_interval" in row for row in rows)


def test_another_primary_metric_has_no_expectation(random):
    wrong_MN = random.random((3, 20)) < 0.5
    scored = table(val=itemized(wrong_MN, metric=MAX_IOU), test=itemized(wrong_MN, metric=MAX_IOU))
    assert resample_choices(scored, 0) == {}


def test_expectations_depend_only_on_the_seed(random):
    scored = chance_table(random)
    first, again, other = (measure_selections({"original": scored}, seed) for seed in (0, 0, 1))
    assert first == again != other
    assert [row["test_accuracy"] for row in first] == [row["test_accuracy"] for row in other]
