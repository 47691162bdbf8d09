"""Margins: row and column means, the influence of single images on similarities, and the share of the models."""

import numpy as np
import pytest

from core.evaluation import margins
from core.evaluation.margins import IOU, RELATIVE_KAPPA, measure_accuracy_margins, measure_similarity_margins
from core.evaluation.metrics import error_consistency, max_iou, pair_with_others
from core.evaluation.resampling import Groups
from core.evaluation.scores import Scores

SIMILARITIES = pytest.mark.parametrize("similarity", [IOU, RELATIVE_KAPPA], ids=lambda each: each.metric.name)


@pytest.fixture
def random():
    return np.random.default_rng(0)


def margins_of(wrong_MN, groups_N=None, block_length=1):
    accuracy_M = 1 - wrong_MN.mean(axis=1)
    scores = Scores(accuracy_M, 1 - accuracy_M, wrong_MN, groups_N=groups_N)
    return measure_accuracy_margins(scores, Groups.index(wrong_MN.shape[1], groups_N), block_length)


def compare(wrong_N, reference_N, similarity, weights_N, fewer_N):
    """Return the similarity of two masks on weighted images; `fewer_N` is the mask of the model that errs less."""
    rates = (weights_N @ mask / weights_N.sum() for mask in (wrong_N, reference_N, wrong_N & reference_N, fewer_N))
    a, b, c, least = rates
    return c / (a + b - c) if similarity is IOU else (c - a * b) / (least - a * b)


@SIMILARITIES
@pytest.mark.parametrize("entries", [1, 50, 10_000])
def test_margins_do_not_depend_on_the_size_of_blocks(random, entries, monkeypatch, similarity):
    wrong_MN, reference_KN = random.random((7, 60)) < np.linspace(0.2, 0.9, 7)[:, None], random.random((4, 60)) < 0.5
    options = {"groups": Groups.index(60, random.integers(20, size=60)), "similarity": similarity, "block_length": 3}
    once = measure_similarity_margins(wrong_MN, reference_KN, **options)
    monkeypatch.setattr(margins, "ENTRIES", entries)
    again = measure_similarity_margins(wrong_MN, reference_KN, **options)
    np.testing.assert_allclose(again.groups_G, once.groups_G, atol=1e-12)
    assert again.model_share == pytest.approx(once.model_share) and 0 < once.model_share < 1


@SIMILARITIES
@pytest.mark.parametrize("errors, others", [(15, 30), (30, 15), (20, 20)])
def test_the_margin_of_an_image_is_the_derivative_of_the_similarity(random, errors, others, similarity):
    wrong_N, reference_N = random.permutation(60) < errors, random.permutation(60) < others
    found = measure_similarity_margins(wrong_N[None], reference_N[None], Groups.index(60), similarity=similarity)
    fewer_N = wrong_N if errors <= others else reference_N  # of two models that err equally often, the first
    before = compare(wrong_N, reference_N, similarity, np.ones(60), fewer_N)
    assert found.models_M == pytest.approx(before, rel=1e-6) and found.groups_G.sum() == pytest.approx(0, abs=1e-5)
    for image in range(60):
        weights_N = np.ones(60)
        weights_N[image] += 1e-6
        moved = (compare(wrong_N, reference_N, similarity, weights_N, fewer_N) - before) / 1e-6
        assert found.groups_G[image] / 60 == pytest.approx(moved, abs=1e-5)


@SIMILARITIES
@pytest.mark.parametrize(
    "wrong, reference, value", [(0, 0, 1), (0, 20, 0), (20, 0, 0), (60, 60, 1), (60, 20, None), (20, 60, None)]
)
def test_a_similarity_that_no_weights_change_has_no_influence(wrong, reference, value, similarity):
    """Models without errors and models that err everywhere have the values that fill 0/0."""
    wrong_N, reference_N = np.arange(60) < wrong, np.arange(60) < reference
    found = measure_similarity_margins(wrong_N[None], reference_N[None], Groups.index(60), similarity=similarity)
    if value is None and similarity is IOU:
        assert found.models_M == pytest.approx(1 / 3) and found.groups_G.std() > 0.1
    else:
        assert found.models_M == (1 if value is None else value) and (found.groups_G == 0).all()


def test_the_most_similar_original_is_found_by_each_measure_of_its_own():
    """The second original repeats fewer errors of the model, but all of its own."""
    images = np.arange(100)
    wrong_MN, reference_KN = (images < 40)[None], np.stack([(images >= 4) & (images < 44), images < 10])
    iou, kappa = (
        measure_similarity_margins(wrong_MN, reference_KN, Groups.index(100), similarity=similarity)
        for similarity in (IOU, RELATIVE_KAPPA)
    )
    assert iou.models_M == pytest.approx(36 / 44) and kappa.models_M == 1
    assert iou.groups_G[0] < 0 < iou.groups_G[10] and (kappa.groups_G == 0).all()
    apart_MK = np.array([[True, False]])
    kappa = measure_similarity_margins(
        wrong_MN, reference_KN, Groups.index(100), similarity=RELATIVE_KAPPA, apart_MK=apart_MK
    )
    assert kappa.models_M == pytest.approx((0.36 - 0.16) / (0.4 - 0.16)) and kappa.groups_G[0] < 0


def test_models_have_the_similarities_of_the_table_of_sources(random):
    wrong_KN = random.random((9, 200)) < np.linspace(0.1, 0.4, 9)[:, None]
    others_KK, groups = pair_with_others(9), Groups.index(200)
    iou, kappa = (
        measure_similarity_margins(wrong_KN, wrong_KN, groups, similarity=similarity, apart_MK=others_KK)
        for similarity in (IOU, RELATIVE_KAPPA)
    )
    assert (iou.models_M == max_iou(wrong_KN, wrong_KN, others_KK)).all()
    assert (kappa.models_M == error_consistency(wrong_KN, wrong_KN, others_KK).relative_M).all()


def test_margins_of_the_accuracy_are_row_and_column_means():
    wrong_MN = np.array([[1, 0, 0, 0], [1, 1, 0, 0]], dtype=bool)
    margins = margins_of(wrong_MN)
    assert margins.models_M.tolist() == [0.75, 0.5] and margins.groups_G.tolist() == [-0.625, -0.125, 0.375, 0.375]
    # Residuals of ±1/8 and ±3/8 have a sum of squares of 3/8. The models' means deviate by 1/8.
    assert margins.model_share == max(0, 1 - 3 / 8 / 4**2 * 4 / 3 / (2 / 8**2))
    assert margins_of(wrong_MN, np.array([5, 2, 5, 2])).groups_G.tolist() == [0.25, -0.25]


def test_models_of_equal_quality_have_no_variance_between_models(random):
    """Chance alone spreads accuracies of equal models, so their share is near 0. Unequal models have a share near 1."""
    alike, unlike = random.random((200, 400)) < 0.3, random.random((200, 400)) < random.uniform(0.1, 0.9, size=(200, 1))
    assert margins_of(alike).model_share < 0.25 and margins_of(unlike).model_share > 0.98


def test_chance_errors_on_whole_groups_are_no_difference_between_models(random):
    """Models of equal quality that err on all versions of an image or on none differ more by chance."""
    wrong_MN, groups_N = np.repeat(random.random((200, 400)) < 0.3, 3, axis=1), np.repeat(np.arange(400), 3)
    assert margins_of(wrong_MN, groups_N).model_share < 0.25 and margins_of(wrong_MN).model_share > 0.55
