"""The verdict on artificial models whose quality is known: linear classifiers scattered around the true one."""

import json

import numpy as np
import pytest

from core.evaluation.audit import audit, decide_difference
from core.evaluation.intervals import Bootstrap
from core.evaluation.scores import ACCURACY, MAX_IOU, Scores, ScoreTable
from core.evaluation.verdict import (
    Comparison,
    Decision,
    Difference,
    Novelty,
    Outcome,
    Standing,
    Verdict,
    decide_outcome,
)

K, N, D = 30, 600, 20
BETTER, WORSE, UNDECIDED = Decision.BETTER, Decision.WORSE, Decision.UNDECIDED


class World:
    """Images with 5% wrong labels, and originals around the true classifier; scores follow from the vectors."""

    def __init__(self, seed=0, with_wrong=True):
        self.random, self.with_wrong = np.random.default_rng(seed), with_wrong
        self.images_ND, self.target_D = self.random.normal(size=(N, D)), self.random.normal(size=D)
        self.labels_N = (self.images_ND @ self.target_D > 0) ^ (self.random.random(N) < 0.05)
        self.originals_KD = self.around(self.target_D, 1.0, K)

    def around(self, center, sigma, count):
        return center + sigma * self.random.normal(size=(count, D))

    def averages(self, count):
        return np.stack([self.originals_KD[self.random.permutation(K)[:8]].mean(axis=0) for _ in range(count)])

    def table(self, source, vectors_MD):
        wrong_MN = (vectors_MD @ self.images_ND.T > 0) != self.labels_N
        accuracy_M = 1 - wrong_MN.mean(axis=1)
        scored = Scores(accuracy_M, 1 - accuracy_M, wrong_MN if self.with_wrong else None)
        return ScoreTable(source, vectors_MD.astype(np.float32), {"val": scored, "test": scored}, "id", 0.0)

    def tables(self, generated_MD, **others):
        vectors = {
            "original": self.originals_KD,
            "ensemble": self.originals_KD.mean(axis=0, keepdims=True),
            "p_diff": generated_MD,
            "noised_0.3": self.originals_KD + 0.3 * self.random.normal(size=(K, D)),
            "average_8": self.averages(30),
            "soup_original": self.originals_KD[:3].mean(axis=0, keepdims=True),
            **others,
        }
        return {source: self.table(source, vectors_MD) for source, vectors_MD in vectors.items()}

    def verdict(self, generated_MD, **others):
        tables = self.tables(generated_MD, **others)
        return audit(tables, Bootstrap(tables, draws=500))


@pytest.fixture
def world():
    return World()


def outcomes(verdict):
    """Return the outcome of every comparison by baseline."""
    return {row.baseline.source: row.outcome for row in verdict.comparisons}


def accuracy_decisions(verdict):
    """Return the decision on the accuracy axis of every comparison by baseline."""
    return {row.baseline.source: row.accuracy.decision for row in verdict.comparisons}


def test_a_copy_of_the_originals_is_memorized_and_dominated(world):
    verdict = world.verdict(world.originals_KD[world.random.permutation(K)])
    assert set(outcomes(verdict).values()) == {Outcome.IS_DOMINATED}
    original, average = verdict.get_comparison("original"), verdict.get_comparison("average_8")
    assert original.accuracy.decision is UNDECIDED and original.max_iou.decision is WORSE
    assert verdict.near_copies["p_diff"] == 1 and verdict.p_diff.max_iou_mean == 1
    assert verdict.novelty is Novelty.MEMORIZED
    assert average.accuracy.decision is verdict.averaging[0].gain_difference.decision is WORSE


@pytest.mark.parametrize("share", [0.9, 0.1, 0.0])
def test_the_variance_that_the_autoencoder_keeps_is_measured(world, share):
    mean_D, originals_KD = world.originals_KD.mean(axis=0), world.originals_KD
    verdict = world.verdict(world.averages(30), reconstructed=mean_D + share * (originals_KD - mean_D))
    assert verdict.variance_kept == pytest.approx(1 - (1 - share) ** 2, abs=1e-4)


def test_no_variance_is_measured_without_reconstructions(world):
    assert world.verdict(world.averages(30)).variance_kept is None


def test_models_can_beat_a_worthless_average_and_still_be_worse_than_the_originals(world):
    """The average of independently trained checkpoints has chance accuracy."""
    verdict = world.verdict(world.around(world.target_D, 2.0, 30), average_8=world.around(-world.target_D, 0.5, 30))
    decisions = accuracy_decisions(verdict)
    assert (decisions["average_8"], decisions["original"]) == (BETTER, WORSE) and verdict.best_average == "average_8"
    good = accuracy_decisions(world.verdict(world.around(world.target_D, 0.15, 30)))
    assert (good["average_8"], good["original"]) == (BETTER, BETTER)


def test_means_of_the_originals_tie_with_averages_and_are_not_memorized(world):
    verdict = world.verdict(world.averages(30))
    found = outcomes(verdict)
    assert found["average_8"] is Outcome.TIE and found["ensemble"] is Outcome.IS_DOMINATED
    assert found["original"] is found["noised_0.3"] is Outcome.DOMINATES
    row = verdict.averaging[0]
    assert row.p_diff_gain.decision is row.average_gain.decision is BETTER
    assert row.gain_difference.decision is verdict.get_comparison("average_8").accuracy.decision is UNDECIDED
    assert verdict.novelty is Novelty.AS_CLOSE


def test_better_and_newer_models_dominate_everything(world):
    verdict = world.verdict(world.around(world.target_D, 0.15, 30))
    assert set(outcomes(verdict).values()) == {Outcome.DOMINATES}
    assert verdict.novelty is Novelty.NEWER
    assert (
        verdict.averaging[0].gain_difference.decision is verdict.get_comparison("average_8").accuracy.decision is BETTER
    )


def test_worse_models_beat_no_baseline_in_accuracy(world):
    verdict = world.verdict(world.around(world.target_D, 2.5, 30))
    assert set(accuracy_decisions(verdict).values()) == {WORSE}
    assert {Outcome.DOMINATES, Outcome.TIE}.isdisjoint(outcomes(verdict).values())
    assert verdict.averaging[0].p_diff_gain.decision is WORSE
    assert verdict.near_copies["p_diff"] == 0 and verdict.novelty not in (None, Novelty.MEMORIZED)


def test_noisy_copies_of_a_few_originals_are_memorized_even_if_these_are_the_best_ones(world):
    accuracy_K = world.table("original", world.originals_KD).scores["test"].accuracy_M
    best = world.originals_KD[np.argsort(accuracy_K)[-5:]].repeat(6, axis=0)
    verdict = world.verdict(best + 0.02 * world.random.normal(size=best.shape))
    assert outcomes(verdict)["original"] is Outcome.TRADE_OFF and verdict.novelty is Novelty.MEMORIZED


def test_differences_are_p_diff_minus_the_baseline_and_within_their_intervals(world):
    verdict = world.verdict(world.averages(20))
    ours = verdict.p_diff
    for row in verdict.comparisons:
        assert row.accuracy.value == pytest.approx(ours.accuracy_mean - row.baseline.accuracy_mean)
        assert row.max_iou.value == pytest.approx(ours.max_iou_mean - row.baseline.max_iou_mean)
        for axis in (row.accuracy, row.max_iou):
            assert axis.interval[0] < axis.value < axis.interval[1]


def test_every_source_except_p_diff_and_the_soups_is_a_baseline(world):
    counts = {row.baseline.source: row.baseline.n for row in world.verdict(world.averages(5)).comparisons}
    assert counts == {"original": K, "ensemble": 1, "noised_0.3": K, "average_8": 30}


def test_the_gain_over_averaging_is_the_difference_to_the_average(world):
    verdict = world.verdict(world.averages(5), average_16=world.averages(3))
    assert [row.source for row in verdict.averaging] == ["average_8", "average_16"]
    assert list(verdict.near_copies) == ["p_diff", "average_8", "average_16"]
    for row in verdict.averaging:
        assert row.gain_difference.value == pytest.approx(row.p_diff_gain.value - row.average_gain.value)
        assert row.gain_difference.value == verdict.get_comparison(row.source).accuracy.value


def test_the_best_average_is_the_most_accurate_one(world):
    assert world.verdict(world.averages(5), average_2=world.originals_KD[:4]).best_average == "average_8"


def test_without_averages_the_ensemble_stands_for_them(world):
    tables = world.tables(world.averages(5))
    del tables["average_8"]
    verdict = audit(tables, Bootstrap(tables, draws=200))
    assert verdict.best_average == "ensemble" and [row.source for row in verdict.averaging] == ["ensemble"]


def test_without_masks_of_wrong_images_accuracy_alone_decides():
    world = World(with_wrong=False)
    verdict = world.verdict(world.around(world.target_D, 0.15, 30))
    assert set(outcomes(verdict).values()) == {Outcome.DOMINATES}
    assert verdict.novelty is None and verdict.p_diff.max_iou_mean is None
    assert all(row.max_iou is None and row.baseline.max_iou_mean is None for row in verdict.comparisons)


def test_nothing_is_decided_between_two_single_models_without_masks_of_wrong_images():
    world = World(with_wrong=False)
    ensemble = world.verdict(world.originals_KD[:1]).get_comparison("ensemble")
    assert ensemble.accuracy.decision is UNDECIDED and ensemble.accuracy.interval is None
    assert ensemble.outcome is Outcome.TIE


def test_a_single_original_has_neither_a_maximum_iou_nor_near_copies(world):
    verdict = world.verdict(world.averages(4), original=world.originals_KD[:1])
    original = verdict.get_comparison("original")
    assert original.max_iou is None and original.baseline.max_iou_mean is None and verdict.near_copies == {}


def test_it_is_plain_json_and_repeats(world):
    tables = world.tables(world.averages(5))
    content = audit(tables).to_json()
    assert json.loads(json.dumps(content, allow_nan=False)) == content == audit(tables).to_json()


@pytest.mark.parametrize("with_wrong", [True, False], ids=["images known", "images unknown"])
def test_it_survives_its_json(with_wrong):
    world = World(with_wrong=with_wrong)
    tables = world.tables(world.averages(5), reconstructed=0.9 * world.originals_KD)
    verdict = audit(tables, Bootstrap(tables, draws=200))
    assert Verdict.from_json(json.loads(json.dumps(verdict.to_json()))) == verdict


def test_its_json_has_the_keys_of_the_format(world):
    content = world.verdict(world.averages(5), reconstructed=world.originals_KD).to_json()
    assert list(content) == [
        "p_diff", "comparisons", "averaging", "best_average", "near_copies", "novelty", "variance_kept",
    ]  # fmt: skip
    assert list(content["p_diff"]) == ["n", "accuracy_mean", "max_iou_mean"]
    assert list(content["comparisons"][0]) == [
        "baseline", "n", "accuracy_mean", "max_iou_mean", "accuracy_difference", "accuracy_interval", "accuracy_is",
        "max_iou_difference", "max_iou_interval", "max_iou_is", "outcome",
    ]  # fmt: skip
    assert list(content["averaging"][0]) == ["source", "p_diff_gain", "average_gain", "gain_difference"]
    assert list(content["averaging"][0]["p_diff_gain"]) == ["difference", "interval", "is"]


def test_its_json_has_no_keys_for_numbers_that_were_not_measured():
    verdict = Verdict(
        p_diff=Standing("p_diff", 1, 0.8),
        comparisons=(Comparison(Standing("original", 1, 0.7), Difference(0.1, None, UNDECIDED), None),),
        averaging=(),
        best_average="original",
        near_copies={},
    )
    assert verdict.to_json() == {
        "p_diff": {"n": 1, "accuracy_mean": 0.8},
        "comparisons": [
            {
                "baseline": "original",
                "n": 1,
                "accuracy_mean": 0.7,
                "accuracy_difference": 0.1,
                "accuracy_is": "undecided",
                "outcome": "tie",
            }
        ],
        "averaging": [],
        "best_average": "original",
        "near_copies": {},
    }


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content.pop("comparisons"),
        lambda content: content["comparisons"][0].pop("accuracy_is"),
        lambda content: content["comparisons"][0].update(accuracy_is="fine"),
        lambda content: content["averaging"][0].pop("average_gain"),
    ],
    ids=["no comparisons", "no decision", "unknown decision", "no gain"],
)
def test_json_of_another_format_is_refused(world, damage):
    content = world.verdict(world.averages(5)).to_json()
    damage(content)
    with pytest.raises((KeyError, ValueError)):
        Verdict.from_json(content)


@pytest.mark.parametrize(
    "axes, word",
    [
        (("better", "better"), "dominates"),
        (("better", "undecided"), "dominates"),
        (("undecided", "better"), "dominates"),
        (("worse", "worse"), "is dominated"),
        (("undecided", "worse"), "is dominated"),
        (("better", "worse"), "trade-off"),
        (("worse", "better"), "trade-off"),
        (("undecided", "undecided"), "tie"),
        (("better",), "dominates"),
        (("undecided",), "tie"),
    ],
)
def test_the_outcome_of_two_axes(axes, word):
    assert decide_outcome(*map(Decision, axes)) is Outcome(word)


@pytest.mark.parametrize(
    "shift, metric, word",
    [
        (5, ACCURACY, "better"),
        (5, MAX_IOU, "worse"),
        (-5, ACCURACY, "worse"),
        (-5, MAX_IOU, "better"),
        (0, ACCURACY, "undecided"),
        (0, MAX_IOU, "undecided"),
    ],
)
def test_an_axis_is_decided_if_the_interval_excludes_zero(shift, metric, word):
    found = decide_difference(shift, np.linspace(-1, 1, 100) + shift, metric)
    assert found.decision is Decision(word) and found.value == shift
    assert found.interval == pytest.approx((shift - 0.95, shift + 0.95), abs=0.03)


@pytest.mark.parametrize(
    "near, near_average, than_average, than_original, word",
    [
        (1.0, 0.0, "worse", "worse", "memorized"),
        (1.0, 0.0, "undecided", "better", "memorized"),
        (1.0, 0.0, "better", "better", "near-copies that err otherwise"),
        (1.0, 1.0, "worse", "worse", "memorized"),
        (1.0, 1.0, "worse", "undecided", "memorized"),
        # Originals are far apart and models are poor, so models are near an original without copying its errors.
        (1.0, 1.0, "worse", "better", "closer than an average"),
        (1.0, 1.0, "undecided", "better", "as close as an average"),
        (0.0, 0.0, "worse", "worse", "closer than an average"),
        (0.0, 0.0, "better", "better", "newer than an average"),
    ],
)
def test_near_copies_are_memorized_if_distances_or_errors_show_it(
    near, near_average, than_average, than_original, word
):
    undecided = Difference(0.0, None, UNDECIDED)
    found = Verdict(
        p_diff=Standing("p_diff", 30, 0.8, 0.7),
        comparisons=tuple(
            Comparison(Standing(source, 30, 0.8, 0.7), undecided, Difference(0.0, None, Decision(than)))
            for source, than in (("original", than_original), ("average_8", than_average))
        ),
        averaging=(),
        best_average="average_8",
        near_copies={"p_diff": near, "average_8": near_average},
    )
    assert found.novelty is Novelty(word)
