"""The verdict on made-up models whose truth is known: linear classifiers scattered around the true one."""

import json
import re

import numpy as np
import pytest

from core.evaluation.audit import audit, judged
from core.evaluation.intervals import Bootstrap
from core.evaluation.scores import ACCURACY, MAX_IOU, Scores, ScoreTable
from core.evaluation.verdict import Comparison, Decision, Difference, Novelty, Outcome, Standing, Verdict, outcome
from core.report.sentences import worded

K, N, D = 30, 600, 20


class World:
    """Images with 5 % wrong labels, and originals around the true classifier; scores follow from the vectors."""

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
        return worded(audit(tables, Bootstrap(tables, draws=500)))


@pytest.fixture
def world():
    return World()


def by_baseline(content, key):
    return {row["baseline"]: row[key] for row in content["comparisons"]}


def test_a_copy_of_the_originals_is_memorized_and_dominated(world):
    content = world.verdict(world.originals_KD[world.random.permutation(K)])
    assert set(by_baseline(content, "outcome").values()) == {"is dominated"}
    assert (
        by_baseline(content, "accuracy_is")["original"] == "undecided"
        and by_baseline(content, "max_iou_is")["original"] == "worse"
    )
    assert content["near_copies"]["p_diff"] == 1 and content["p_diff"]["max_iou_mean"] == 1
    assert content["novelty"] == "memorized" and content["averaging"][0]["gain_difference"]["is"] == "worse"
    assert (
        content["sentences"][0].startswith("No, a generated model falls short")
        and "memorized rather than new (maximum IoU 1.000" in content["sentences"][0]
    )


def test_an_autoencoder_that_forgets_what_sets_checkpoints_apart_is_named(world):
    mean_D, originals_KD = world.originals_KD.mean(axis=0), world.originals_KD
    for share, said in ((0.1, True), (0.9, False)):  # of the way from the mean to the original
        content = world.verdict(world.averages(30), reconstructed=mean_D + share * (originals_KD - mean_D))
        assert (content["variance_kept"] < 0.5) == said == ("caution" in content)
    content = world.verdict(world.averages(30), reconstructed=mean_D + 0 * originals_KD)
    assert (
        content["caution"] in content["sentences"]
        and "keeps nothing" in content["caution"]
        and "system/autoencoder=chunked" in content["caution"]
    )
    assert "variance_kept" not in world.verdict(world.averages(30)), "nothing was reconstructed"


def test_better_than_an_average_that_is_worth_nothing_is_not_called_good(world):
    """As with checkpoints of independent trainings, whose average is at chance."""
    content = world.verdict(world.around(world.target_D, 2.0, 30), average_8=world.around(-world.target_D, 0.5, 30))
    assert by_baseline(content, "accuracy_is") | {"average_8": "better", "original": "worse"} == by_baseline(
        content, "accuracy_is"
    )
    assert (
        content["sentences"][0].startswith("Yes, a generated model beats an average")
        and ") but falls short of the originals (-" in content["sentences"][0]
    )
    good = world.verdict(world.around(world.target_D, 0.15, 30))
    assert "falls short" not in good["sentences"][0]


def test_means_of_the_originals_tie_with_averages_and_are_not_called_memorized(world):
    content = world.verdict(world.averages(30))
    outcomes = by_baseline(content, "outcome")
    assert (
        outcomes["average_8"] == "tie"
        and outcomes["original"] == outcomes["noised_0.3"] == "dominates"
        and outcomes["ensemble"] == "is dominated"
    )
    row = content["averaging"][0]
    assert (row["p_diff_gain"]["is"], row["average_gain"]["is"], row["gain_difference"]["is"]) == (
        "better",
        "better",
        "undecided",
    )
    assert content["novelty"] == "as close as an average"
    assert (
        content["sentences"][0].startswith("No, a generated model does not measurably beat")
        and "no newer than such an average" in content["sentences"][0]
    )


def test_better_and_newer_models_dominate_everything(world):
    content = world.verdict(world.around(world.target_D, 0.15, 30))
    assert set(by_baseline(content, "outcome").values()) == {"dominates"}
    assert (
        content["novelty"] == "newer than an average" and content["averaging"][0]["gain_difference"]["is"] == "better"
    )
    assert (
        content["sentences"][0].startswith("Yes, a generated model beats")
        and "it is newer than such an average" in content["sentences"][0]
    )


def test_worse_models_beat_no_baseline_in_accuracy(world):
    content = world.verdict(world.around(world.target_D, 2.5, 30))
    assert set(by_baseline(content, "accuracy_is").values()) == {"worse"}
    assert {"dominates", "tie"}.isdisjoint(by_baseline(content, "outcome").values())
    assert content["near_copies"]["p_diff"] == 0 and content["novelty"] != "memorized"
    assert (
        content["sentences"][0].startswith("No, a generated model falls short")
        and "loses against the originals" in content["sentences"][1]
    )


def test_noisy_copies_of_few_originals_are_memorized_even_if_they_are_the_best_ones(world):
    accuracy_K = world.table("original", world.originals_KD).scores["test"].accuracy_M
    best = world.originals_KD[np.argsort(accuracy_K)[-5:]].repeat(6, axis=0)
    content = world.verdict(best + 0.02 * world.random.normal(size=best.shape))
    assert by_baseline(content, "outcome")["original"] == "trade-off" and content["novelty"] == "memorized"


def test_differences_are_p_diff_minus_the_baseline_and_within_their_intervals(world):
    content = world.verdict(world.averages(20))
    own = content["p_diff"]
    for row in content["comparisons"]:
        assert row["accuracy_difference"] == pytest.approx(own["accuracy_mean"] - row["accuracy_mean"])
        assert row["max_iou_difference"] == pytest.approx(own["max_iou_mean"] - row["max_iou_mean"])
        for axis in ("accuracy", "max_iou"):
            assert row[f"{axis}_interval"][0] < row[f"{axis}_difference"] < row[f"{axis}_interval"][1]


def test_every_source_but_p_diff_and_the_soups_is_a_baseline(world):
    content = world.verdict(world.averages(5))
    assert by_baseline(content, "n") == {"original": K, "ensemble": 1, "noised_0.3": K, "average_8": 30}


def test_the_gain_over_averaging_is_the_difference_to_the_average(world):
    content = world.verdict(world.averages(5), average_16=world.averages(3))
    assert [row["source"] for row in content["averaging"]] == ["average_8", "average_16"] and set(
        content["near_copies"]
    ) == {"p_diff", "average_8", "average_16"}
    for row in content["averaging"]:
        assert row["gain_difference"]["difference"] == pytest.approx(
            row["p_diff_gain"]["difference"] - row["average_gain"]["difference"]
        )
        assert row["gain_difference"]["difference"] == by_baseline(content, "accuracy_difference")[row["source"]]


def test_the_headline_takes_the_most_accurate_average(world):
    content = world.verdict(world.averages(5), average_2=world.originals_KD[:4])
    assert content["best_average"] == "average_8" and "average_8" in content["sentences"][0]


def test_without_averages_the_mean_of_all_stands_for_them(world):
    tables = world.tables(world.averages(5))
    del tables["average_8"]
    content = worded(audit(tables, Bootstrap(tables, draws=200)))
    assert content["best_average"] == "ensemble" and "against ensemble" in content["sentences"][0]


def test_without_known_images_accuracy_alone_decides():
    world = World(with_wrong=False)
    content = world.verdict(world.around(world.target_D, 0.15, 30))
    assert set(by_baseline(content, "outcome").values()) == {"dominates"}
    assert (
        "novelty" not in content
        and "max_iou_mean" not in content["p_diff"]
        and not any("IoU" in said for said in content["sentences"])
    )
    assert "whether it is new was not measured" in content["sentences"][0]


def test_nothing_is_decided_between_two_single_models_without_known_images():
    world = World(with_wrong=False)
    row = next(row for row in world.verdict(world.originals_KD[:1])["comparisons"] if row["baseline"] == "ensemble")
    assert row["accuracy_is"] == "undecided" and row["outcome"] == "tie" and "accuracy_interval" not in row


def test_one_original_has_no_other_to_be_compared_with(world):
    content = world.verdict(world.averages(4), original=world.originals_KD[:1])
    row = next(row for row in content["comparisons"] if row["baseline"] == "original")
    assert not any(key.startswith("max_iou") for key in row) and content["near_copies"] == {}


def test_every_sentence_says_the_numbers_it_rests_on(world):
    content = world.verdict(world.averages(20))
    assert 3 <= len(content["sentences"]) <= 6
    average = next(row for row in content["comparisons"] if row["baseline"] == "average_8")
    low, high = (f"{100 * end:+.2f}" for end in average["accuracy_interval"])
    assert (
        f"({100 * average['accuracy_difference']:+.2f} points, 95 % interval {low} to {high}, against average_8)"
        in content["sentences"][0]
    )
    assert f"{content['p_diff']['max_iou_mean']:.3f} against {average['max_iou_mean']:.3f}" in content["sentences"][0]
    assert f"{100 * content['near_copies']['p_diff']:.0f} % of the generated models" in content["sentences"][2]
    assert all(
        re.search(r"\d", said) and said.endswith(".") and said[0].isupper() | said.startswith("p_diff")
        for said in content["sentences"]
    )
    for name in ("original", "ensemble", "noised_0.3", "average_8"):
        assert name in content["sentences"][-1]


def test_no_sentence_is_the_same_for_other_outcomes(world):
    several = [
        world.verdict(vectors)["sentences"]
        for vectors in (world.originals_KD, world.averages(30), world.around(world.target_D, 0.15, 30))
    ]
    for versions in zip(*several, strict=False):  # one verdict has a sentence more than another
        assert len(set(versions)) == 3


def test_it_is_plain_json_and_repeats(world):
    tables = world.tables(world.averages(5))
    content = audit(tables).to_json()
    assert json.loads(json.dumps(content, allow_nan=False)) == content == audit(tables).to_json()


@pytest.mark.parametrize("with_wrong", [True, False], ids=["images known", "images unknown"])
def test_it_survives_its_json(with_wrong):
    world = World(with_wrong=with_wrong)
    tables = world.tables(world.averages(5), reconstructed=0.9 * world.originals_KD)
    found = audit(tables, Bootstrap(tables, draws=200))
    assert Verdict.from_json(json.loads(json.dumps(worded(found)))) == found


def test_its_json_has_the_keys_of_the_format():
    world = World()
    content = world.verdict(world.averages(5), reconstructed=world.originals_KD)
    assert list(content) == [
        "p_diff", "comparisons", "averaging", "best_average", "near_copies", "novelty", "variance_kept", "sentences",
    ]  # fmt: skip
    assert list(content["p_diff"]) == ["n", "accuracy_mean", "max_iou_mean"]
    assert list(content["comparisons"][0]) == [
        "baseline", "n", "accuracy_mean", "max_iou_mean", "accuracy_difference", "accuracy_interval", "accuracy_is",
        "max_iou_difference", "max_iou_interval", "max_iou_is", "outcome",
    ]  # fmt: skip
    assert list(content["averaging"][0]) == ["source", "p_diff_gain", "average_gain", "gain_difference"]
    assert list(content["averaging"][0]["p_diff_gain"]) == ["difference", "interval", "is"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content.pop("comparisons"),
        lambda content: content["comparisons"][0].pop("accuracy_is"),
        lambda content: content["comparisons"][0].update(accuracy_is="fine"),
        lambda content: content["averaging"][0].pop("average_gain"),
    ],
    ids=["no comparisons", "no decision", "another decision", "no gain"],
)
def test_json_of_another_format_is_refused(world, damage):
    content = world.verdict(world.averages(5))
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
    assert outcome(*map(Decision, axes)) is Outcome(word)


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
def test_an_axis_is_decided_where_the_interval_excludes_zero(shift, metric, word):
    found = judged(shift, np.linspace(-1, 1, 100) + shift, metric)
    assert found.decision is Decision(word) and found.value == shift
    assert found.interval == pytest.approx((shift - 0.95, shift + 0.95))


@pytest.mark.parametrize(
    "near, near_average, than_average, than_original, word",
    [
        (1.0, 0.0, "worse", "worse", "memorized"),
        (1.0, 0.0, "undecided", "better", "memorized"),
        (1.0, 0.0, "better", "better", "near-copies that err otherwise"),
        (1.0, 1.0, "worse", "worse", "memorized"),
        (1.0, 1.0, "worse", "undecided", "memorized"),
        # Originals are far apart and models poor: near to one, but no copy of what it does.
        (1.0, 1.0, "worse", "better", "closer than an average"),
        (1.0, 1.0, "undecided", "better", "as close as an average"),
        (0.0, 0.0, "worse", "worse", "closer than an average"),
        (0.0, 0.0, "better", "better", "newer than an average"),
    ],
)
def test_near_copies_are_memorized_where_nearness_or_errors_tell(near, near_average, than_average, than_original, word):
    undecided = Difference(0.0, None, Decision.UNDECIDED)
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
