"""What the models of a source are worth together, on votes whose measures are known in closed form."""

import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from core.evaluation.kinds import DEEP_ENSEMBLE
from core.evaluation.scores import ScoreTable, Votes
from core.evaluation.worth import (
    find_equivalent,
    measure_risk_coverage,
    measure_separation,
    measure_worth,
)
from tests.core.evaluation.tables import scores, table


def make_votes(counts, wrong_PN, loss_PN=None, confidence_PN=None) -> Votes:
    wrong_PN = np.asarray(wrong_PN, bool)
    loss_PN = np.where(wrong_PN, 2.0, 0.1) if loss_PN is None else np.asarray(loss_PN)
    confidence_PN = np.full(wrong_PN.shape, 0.9) if confidence_PN is None else np.asarray(confidence_PN)
    return Votes(
        counts_P=np.array(counts),
        temperature_P=np.linspace(1, 2, len(counts)),
        loss_PN=loss_PN.astype(np.float32),
        brier_PN=np.where(wrong_PN, 1.5, 0.25).astype(np.float32),
        confidence_PN=confidence_PN.astype(np.float32),
        wrong_PN=wrong_PN,
        disagreement_PN=np.where(np.array(counts)[:, None] == 1, np.nan, np.full(wrong_PN.shape, 0.2, np.float32)),
    )


def make_table(source, votes, *, groups_N=None, ood=None) -> ScoreTable:
    test = replace(scores([0.5, 0.6]), votes=votes, groups_N=groups_N)
    return replace(table(source, test, scores([0.5, 0.6])), ood=ood or {})


def by_count(rows, source):
    return {row["n_models"]: row for row in rows if row["source"] == source}


@pytest.fixture
def random():
    return np.random.default_rng(0)


def test_a_row_holds_the_means_of_its_vote_and_fits_into_json(random):
    wrong_PN = random.random((2, 50)) < [[0.4], [0.2]]
    loss_PN, confidence_PN = random.random((2, 50)), random.random((2, 50))
    votes = make_votes([1, 5], wrong_PN, loss_PN, confidence_PN)
    ood = {"splices": random.random((2, 30)).astype(np.float32)}
    rows = measure_worth({"p_diff": make_table("p_diff", votes, ood=ood), "ensemble": make_table("ensemble", None)})
    assert json.loads(json.dumps(rows)) == rows and [row["source"] for row in rows] == ["p_diff", "p_diff"]
    for index, row in enumerate(rows):
        assert row["n_models"] == [1, 5][index] and row["temperature"] == [1.0, 2.0][index]
        assert row["accuracy"] == pytest.approx(1 - wrong_PN[index].mean())
        assert row["loss"] == pytest.approx(loss_PN[index].mean(), rel=1e-6)
        assert row["brier"] == pytest.approx(votes.brier_PN[index].mean())
        assert row["aurc"] == measure_risk_coverage(votes.confidence_PN[index], wrong_PN[index])
        assert row["auroc"] == {"splices": measure_separation(votes.confidence_PN[index], ood["splices"][index])}
        for measure in ("accuracy", "loss"):
            low, high = row[f"{measure}_interval"]
            assert low < row[measure] < high
    assert "disagreement" not in rows[0] and rows[1]["disagreement"] == pytest.approx(0.2)
    assert not any("equivalent" in row for row in rows)


def test_a_source_without_validation_scores_has_no_rows_because_its_temperature_is_unknown():
    fitted = make_table("p_diff", make_votes([1], [[True, False]]))
    unfitted = replace(fitted, source="reconstructed", scores={"test": fitted.scores["test"]})
    assert [row["source"] for row in measure_worth({"p_diff": fitted, "reconstructed": unfitted})] == ["p_diff"]


def test_a_vote_of_nan_is_wrong_without_confidence_and_its_loss_is_absent():
    votes = make_votes([1], [[True, False]], [[np.nan, 0.1]], [[np.nan, 0.9]])
    (row,) = measure_worth({"p_diff": make_table("p_diff", votes, ood={"other": np.array([[np.nan, 0.5]])})})
    assert row["accuracy"] == 0.5 and not {"loss", "loss_interval", "ece"} & row.keys()
    assert row["aurc"] == pytest.approx((0 + 1 / 2) / 2) and row["auroc"] == {"other": 0.625}


def test_the_calibration_error_is_zero_where_confidence_equals_accuracy_and_follows_its_definition(random):
    def measure(confidence_N, wrong_N):
        votes = make_votes([1], [wrong_N], confidence_PN=[confidence_N])
        return measure_worth({"p_diff": make_table("p_diff", votes)})[0]["ece"]

    wrong_N = np.arange(1000) % 10 == 0
    assert measure(np.full(1000, 0.9), wrong_N) == pytest.approx(0, abs=1e-4)
    assert measure(np.full(1000, 1.0), wrong_N) == pytest.approx(0.1, rel=1e-4)
    confidence_N, wrong_N = random.random(500), random.random(500) < 0.3
    bins = (confidence_N * 15).astype(int)
    expected = sum(abs((confidence_N - ~wrong_N)[bins == bin_].sum()) for bin_ in range(15)) / 500
    assert measure(confidence_N, wrong_N) == pytest.approx(expected, rel=1e-4)


def test_the_risk_coverage_curve_follows_its_definition(random):
    confidence_N, wrong_N = random.random(300), random.random(300) < 0.3
    order = np.argsort(-confidence_N)
    expected = np.mean([wrong_N[order[:kept]].mean() for kept in range(1, 301)])
    assert measure_risk_coverage(confidence_N, wrong_N) == pytest.approx(expected)
    # A perfect ranking leaves the wrong images to the end: its area is the least of all rankings.
    assert measure_risk_coverage(1.0 - wrong_N, wrong_N) < expected < measure_risk_coverage(0.0 + wrong_N, wrong_N)


def test_images_of_equal_confidence_count_in_random_order(random):
    wrong_N = np.arange(40) < 10
    assert measure_risk_coverage(np.ones(40), wrong_N) == pytest.approx(0.25)
    confidence_N = np.repeat([0.9, 0.5], 20)
    shuffled = [
        measure_risk_coverage(confidence_N + 1e-6 * random.random(40), wrong_N) for _ in range(2000)
    ]  # every order of the images of equal confidence
    assert measure_risk_coverage(confidence_N, wrong_N) == pytest.approx(np.mean(shuffled), abs=3e-3)


def test_confidence_separates_other_images_or_tells_nothing(random):
    assert measure_separation(np.array([0.8, 0.9]), np.array([0.1, 0.7])) == 1
    assert measure_separation(np.array([0.8, 0.9]), np.array([0.8, 0.9])) == 0.5
    inside_N, outside_N = random.random(200), random.random(100) - 0.2
    expected = roc_auc_score([1] * 200 + [0] * 100, [*inside_N, *outside_N])
    assert measure_separation(inside_N, outside_N) == pytest.approx(expected) and expected > 0.6


DEEP = make_votes([1, 2, 5], np.zeros((3, 4)), [[0.4] * 4, [0.2] * 4, [0.1] * 4])


@pytest.mark.parametrize(
    "loss, equivalent",
    [(0.9, 1), (0.4, 1), (0.3, 1.5), (0.2, 2), (0.15, 3.5), (0.11, 4.7), (0.099, ">5")],
)
def test_the_equivalent_is_where_the_curve_of_the_deep_ensemble_reaches_the_loss(loss, equivalent):
    found = find_equivalent(loss, DEEP)
    assert found == (pytest.approx(equivalent, rel=1e-4) if isinstance(equivalent, int | float) else equivalent)


def test_the_equivalent_is_the_first_crossing_of_a_curve_that_turns_back():
    uneven = replace(DEEP, loss_PN=np.array([[0.4], [0.2], [0.3]]))
    assert find_equivalent(0.25, uneven) == pytest.approx(1.75) and find_equivalent(0.1, uneven) == ">5"


def test_sources_are_compared_with_the_deep_ensemble_of_the_run():
    votes = make_votes([1, 10], np.zeros((2, 4)), [[0.3] * 4, [0.05] * 4])
    tables = {"p_diff": make_table("p_diff", votes), DEEP_ENSEMBLE: make_table(DEEP_ENSEMBLE, DEEP)}
    rows = measure_worth(tables)
    assert {n: row["equivalent"] for n, row in by_count(rows, "p_diff").items()} == {1: pytest.approx(1.5), 10: ">5"}
    assert [row["equivalent"] for row in by_count(rows, DEEP_ENSEMBLE).values()] == [1, 2, 5]


@pytest.mark.parametrize("grouped", [False, True])
def test_intervals_have_the_width_of_a_binomial_share_of_groups(random, grouped):
    groups_N = random.permutation(np.arange(600).repeat(3))  # the three images of a group are wrong or right together
    wrong_PN = (random.random(600) < 0.2)[groups_N][None]
    votes, share = make_votes([2], wrong_PN), wrong_PN.mean()
    (row,) = measure_worth({"p_diff": make_table("p_diff", votes, groups_N=groups_N if grouped else None)})
    low, high = row["accuracy_interval"]
    expected = 2 * 1.96 * np.sqrt(share * (1 - share) / (600 if grouped else 1800))
    assert high - low == pytest.approx(expected, rel=0.1) and low < 1 - share < high
    loss_low, loss_high = row["loss_interval"]
    assert loss_high - loss_low == pytest.approx(1.9 * (high - low), rel=1e-3)  # an error costs 1.9 nats more


def test_sources_share_the_resampled_images(random):
    wrong_PN, loss_PN = random.random((1, 200)) < 0.2, random.random((1, 200))
    tables = {name: make_table(name, make_votes([3], wrong_PN, loss_PN)) for name in ("original", "p_diff")}
    first, second = measure_worth(tables)
    assert first["loss_interval"] == second["loss_interval"]
    assert first["loss_interval"] != measure_worth(tables, seed=1)[0]["loss_interval"]
