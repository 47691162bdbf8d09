"""Planted originals that resemble their neighbors in time, and what the audit then compares with what."""

import numpy as np
import pytest

from core.evaluation import intervals, yardstick
from core.evaluation.audit import Comparer, audit, make_bootstrap
from core.evaluation.copying import Behavior, measure_closeness
from core.evaluation.decisions import find_least_p_of_similarity
from core.evaluation.intervals import Bootstrap, percentile_interval
from core.evaluation.margins import IOU
from core.evaluation.metrics import error_consistency, iou_matrix, max_iou
from core.evaluation.scores import Scores, ScoreTable
from core.evaluation.summary import summarize_tables
from core.evaluation.yardstick import Origins, measure_lag, measure_yardstick, pair_originals
from tests.core.evaluation.planted import World
from tests.core.evaluation.test_walk import draw_series


def number_steps(trainings, steps, every=1):
    """Return origins (K, 2) of several trainings with as many steps each."""
    return np.stack([np.repeat(np.arange(trainings), steps), np.tile(every * np.arange(steps), trainings)], axis=1)


@pytest.fixture(scope="module")
def walk():
    """Return tables whose originals are 60 steps of one training, the origins, and a bootstrap."""
    world = World(num_originals=60, walk=True)
    u_M1 = world.random.uniform(0.3, 0.7, size=(30, 1))
    pairs_2MD = world.originals_KD[np.stack([world.random.permutation(60)[:30] for _ in range(2)])]
    others = {"interpolated": u_M1 * pairs_2MD[0] + (1 - u_M1) * pairs_2MD[1], "deep_ensemble": world.sample(3)}
    tables, origins = world.tables(world.sample(10), others=others), Origins(number_steps(1, 60, every=5))
    bootstrap = make_bootstrap(tables, origins)
    return tables, origins, bootstrap


def row_of(rows, source):
    return next(row for row in rows if row["source"] == source)


def test_an_original_is_not_compared_with_its_neighbors_in_time(walk):
    """Interpolations are no newer than checkpoints, but each checkpoint errs like the neighboring step."""
    tables, origins, bootstrap = walk
    wrong_KN, lag = tables["original"].scores["test"].wrong_MN, measure_lag(tables["original"].vectors_MD, origins)
    rows = np.arange(60)
    far_KK = 5 * abs(rows[:, None] - rows) >= lag
    expected = np.where(far_KK, iou_matrix(wrong_KN, wrong_KN), 0).max(axis=1).mean()
    neighbors = max_iou(wrong_KN, wrong_KN, ~np.eye(60, dtype=bool)).mean()
    assert lag >= 15 and lag % 5 == 0 and bootstrap.find_partners("interpolated") is None
    rows = {source: row_of(summarize_tables(tables, bootstrap)["table"], source) for source in tables}
    assert rows["original"]["max_iou_mean"] == pytest.approx(expected)
    assert rows["original"]["kappa_mean"] == pytest.approx(error_consistency(wrong_KN, wrong_KN, far_KK).kappa_M.mean())
    assert expected < rows["interpolated"]["max_iou_mean"] < neighbors
    low, high = percentile_interval(bootstrap.draw_similarity("original", IOU))
    assert low < expected < high < neighbors
    comparer = Comparer(tables, bootstrap, "ensemble")
    found, ours = comparer.locate("original"), comparer.locate("p_diff")
    assert found.max_iou_mean == pytest.approx(expected)
    assert found.kappa_relative_mean == rows["original"]["kappa_relative_mean"]
    assert comparer.measure_largest(IOU, "original").value == pytest.approx(ours.max_iou_mean - expected)


def test_originals_and_not_a_deep_ensemble_are_measured_in_weights(walk):
    tables, origins, bootstrap = walk
    verdict = audit(tables, bootstrap, origins)
    assert verdict.closeness.keys() == tables.keys() - {"deep_ensemble"}
    original = verdict.closeness["original"]
    assert original.behavior is Behavior.SAMPLES and original.copies <= 0.1
    neighbors = measure_closeness(
        tables["original"], tables["original"], verdict.yardstick, apart_MK=~np.eye(60, dtype=bool)
    )
    assert original.weights > 1.2 * neighbors.weights and original.copies < neighbors.copies
    rows = summarize_tables(tables, bootstrap, closeness=verdict.closeness)["table"]
    assert row_of(rows, "original")["nearest_relative"] == original.weights
    ensemble = row_of(rows, "deep_ensemble")
    assert "max_iou_mean" in ensemble and {"min_l2_mean", "nearest_relative", "behavior"}.isdisjoint(ensemble)


def test_an_original_without_a_partner_at_the_lag_is_compared_with_all_others():
    drift_KD, others_KK = np.arange(30.0)[:, None], ~np.eye(30, dtype=bool)
    partners = pair_originals(drift_KD, None)
    apart_KK = partners.apart_KK
    assert measure_lag(drift_KD, None) == partners.lag == 5 and apart_KK[0].sum() == 25 and apart_KK[15].sum() == 21
    for origins in (Origins(number_steps(30, 1)), Origins(np.zeros((30, 2), np.int64))):
        assert (pair_originals(drift_KD, origins).apart_KK == others_KK).all()
    for origins in (None, Origins(number_steps(1, 2))):
        assert pair_originals(drift_KD[:2], origins).apart_KK.sum() == 2
    assert pair_originals(drift_KD[:1], None).apart_KK.tolist() == [[False]]


def test_several_trainings_with_several_steps_have_a_lag_and_blocks():
    """The mean of a training must not count as autocorrelation, which the mean of all trainings would make it."""
    series = [10 * np.random.default_rng(seed).normal(size=20) + draw_series(40, coefficient=0.8, seed=seed)
              for seed in range(5)]  # fmt: skip
    vectors_KD, origins = np.concatenate(series), Origins(number_steps(5, 40, every=2))
    lags = [measure_lag(each, None) for each in series]
    assert measure_lag(vectors_KD, origins) == 2 * max(lags) and 2 < max(lags) < 10
    apart_KK = pair_originals(vectors_KD, origins).apart_KK
    assert not apart_KK[0, 1] and apart_KK[0, 39] and apart_KK[39, 40]
    world = World(num_originals=60, walk=True)
    tables = world.tables(world.sample(4))
    bootstrap = make_bootstrap(tables, Origins(number_steps(3, 20)))
    assert bootstrap.block_lengths["original"] > 1 and not bootstrap.find_partners("original")[0, 1]
    assert measure_yardstick(tables["original"], None, Origins(number_steps(3, 20))).lag > 0


def test_similarities_and_the_lag_are_measured_once_for_the_verdict_and_the_table(walk, monkeypatch):
    tables, origins, _ = walk
    calls = []

    def count(module, name):
        function = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args, **options: calls.append(name) or function(*args, **options))

    count(yardstick, "measure_lag")
    count(intervals, "measure_similarity")
    bootstrap = make_bootstrap(tables, origins)
    verdict = audit(tables, bootstrap, origins)
    assert verdict.yardstick.lag == bootstrap.partners.lag == measure_lag(tables["original"].vectors_MD, origins)
    summarize_tables(tables, bootstrap, closeness=verdict.closeness)
    assert sorted(calls) == ["measure_lag"] + ["measure_similarity"] * len(tables)


def with_errors(source, *images):
    wrong_MN = np.zeros((len(images), 1000), bool)
    for row, wrong in enumerate(images):
        wrong_MN[row, wrong] = True
    scores = Scores(1 - wrong_MN.mean(axis=1), wrong_MN.mean(axis=1), wrong_MN)
    return ScoreTable(source, np.eye(3)[: len(images)], {"test": scores}, "id", 0.0)


@pytest.mark.parametrize("num_images", [1, 4, 8])
def test_a_difference_of_ious_on_few_images_cannot_show_much(num_images):
    """Both models repeat 200 errors of the original. They differ in a few images, as a sign test counts them."""
    shared = np.arange(200)
    tables = [with_errors("original", np.arange(250)), with_errors("p_diff", shared)]
    tables.append(with_errors("ensemble", np.arange(200 + num_images)))
    margins = Bootstrap({table.source: table for table in tables}, draws=10).measure_margins(IOU)
    least = find_least_p_of_similarity(margins["p_diff"], margins["ensemble"])
    assert least == pytest.approx(2.0 ** (1 - num_images), rel=0.35)
    assert find_least_p_of_similarity(margins["p_diff"], margins["p_diff"]) == 1
