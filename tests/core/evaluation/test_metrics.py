"""Measures over score tables, compared with plain loops, scikit-learn and scipy."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.metrics import cohen_kappa_score, jaccard_score

from core.evaluation import metrics
from core.evaluation.metrics import (
    Spacing,
    disagreement_matrix,
    error_consistency,
    find_most_alike,
    iou_matrix,
    l2_matrix,
    max_iou,
    min_l2,
    multiply_deviations,
    near_copies,
    pair_with_others,
    summarize,
    variance_kept,
    within_iou,
)
from core.evaluation.scores import Metric

M, K, N, D = 5, 7, 60, 9


@pytest.fixture
def random():
    return np.random.default_rng(0)


@pytest.fixture
def wrong_MN(random):
    return random.random((M, N)) < 0.3


@pytest.fixture
def reference_KN(random):
    return random.random((K, N)) < 0.4


@pytest.fixture
def vectors_MD(random):
    return random.normal(size=(M, D))


def iou_by_hand(a_N, b_N):
    both = either = 0
    for a, b in zip(a_N, b_N, strict=True):
        both, either = both + (a and b), either + (a or b)
    return both / either


def test_iou_agrees_with_the_definition_and_with_scikit_learn(wrong_MN, reference_KN):
    by_hand = [[iou_by_hand(a_N, b_N) for b_N in reference_KN] for a_N in wrong_MN]
    library = [[jaccard_score(a_N, b_N) for b_N in reference_KN] for a_N in wrong_MN]
    np.testing.assert_allclose(iou_matrix(wrong_MN, reference_KN), by_hand, rtol=1e-6)
    np.testing.assert_allclose(iou_matrix(wrong_MN, reference_KN), library, rtol=1e-6)


def test_iou_of_known_sets():
    wrong_MN = np.array([[1, 1, 0, 0], [0, 0, 1, 0], [1, 1, 1, 0]], dtype=bool)
    np.testing.assert_allclose(iou_matrix(wrong_MN, wrong_MN), [[1, 0, 2 / 3], [0, 1, 1 / 3], [2 / 3, 1 / 3, 1]])


def test_models_without_errors_have_iou_1_with_each_other_and_0_with_other_models():
    perfect, other = np.zeros((1, 4), dtype=bool), np.array([[1, 0, 0, 0]], dtype=bool)
    assert iou_matrix(perfect, perfect).tolist() == [[1]] and iou_matrix(perfect, other).tolist() == [[0]]


def test_counts_stay_exact_for_many_images():
    wrong_MN = np.ones((1, 100_000), dtype=bool)
    reference_KN = wrong_MN.copy()
    reference_KN[0, 0] = False
    assert iou_matrix(wrong_MN, reference_KN)[0, 0] == np.float32(99_999 / 100_000) != 1


def test_max_iou_is_the_largest_over_the_references(wrong_MN, reference_KN):
    expected = [max(iou_by_hand(a_N, b_N) for b_N in reference_KN) for a_N in wrong_MN]
    np.testing.assert_allclose(max_iou(wrong_MN, reference_KN), expected, rtol=1e-6)


def test_a_model_is_left_out_of_its_own_references_only_if_told(wrong_MN):
    expected = [max(iou_by_hand(wrong_MN[i], wrong_MN[j]) for j in range(M) if j != i) for i in range(M)]
    np.testing.assert_allclose(max_iou(wrong_MN, wrong_MN, pair_with_others(len(wrong_MN))), expected, rtol=1e-6)
    np.testing.assert_allclose(max_iou(wrong_MN, wrong_MN), np.ones(M))


def test_a_copy_among_the_models_counts_although_the_diagonal_does_not(wrong_MN):
    twins = np.concatenate([wrong_MN, wrong_MN[:1]])
    assert max_iou(twins, twins, pair_with_others(len(twins)))[[0, -1]].tolist() == [1, 1]
    assert (max_iou(twins, twins, pair_with_others(len(twins)))[1:-1] < 1).all()


def test_the_diagonal_is_left_out_without_touching_the_masks(wrong_MN):
    before = wrong_MN.copy()
    max_iou(wrong_MN, wrong_MN, pair_with_others(len(wrong_MN)))
    assert (wrong_MN == before).all()


def test_within_iou_is_the_mean_over_pairs_of_different_models(wrong_MN):
    pairs = [iou_by_hand(wrong_MN[i], wrong_MN[j]) for i in range(M) for j in range(i)]
    assert within_iou(wrong_MN) == pytest.approx(np.mean(pairs), rel=1e-6)


@pytest.mark.parametrize("rows", [1, 2, 3, M, M + 1])
def test_no_similarity_depends_on_the_size_of_blocks(wrong_MN, reference_KN, rows, monkeypatch):
    whole = [
        iou_matrix(wrong_MN, reference_KN),
        *find_most_alike(wrong_MN, reference_KN),
        *find_most_alike(wrong_MN, wrong_MN, pair_with_others(len(wrong_MN))),
        within_iou(wrong_MN),
    ]
    monkeypatch.setattr(metrics, "ROWS", rows)
    blocks = [
        iou_matrix(wrong_MN, reference_KN),
        *find_most_alike(wrong_MN, reference_KN),
        *find_most_alike(wrong_MN, wrong_MN, pair_with_others(len(wrong_MN))),
        within_iou(wrong_MN),
    ]
    for once, again in zip(whole, blocks, strict=True):
        np.testing.assert_allclose(again, once, rtol=1e-12)


def test_the_most_alike_reference_has_the_largest_iou(wrong_MN, reference_KN):
    largest_M, which_M = find_most_alike(wrong_MN, reference_KN)
    similarity_MK = iou_matrix(wrong_MN, reference_KN)
    assert (
        which_M.tolist() == similarity_MK.argmax(axis=1).tolist()
        and largest_M.tolist() == similarity_MK.max(axis=1).tolist()
    )
    twins = np.concatenate([wrong_MN, wrong_MN])
    assert find_most_alike(twins, twins, pair_with_others(len(twins)))[1].tolist() == [*range(M, 2 * M), *range(M)]


def test_the_error_consistency_agrees_with_scikit_learn_and_with_the_definition(wrong_MN, reference_KN):
    found = error_consistency(wrong_MN, reference_KN)
    for row, a_N in enumerate(wrong_MN):
        kappa = [cohen_kappa_score(a_N, b_N) for b_N in reference_KN]
        # Sorted masks have these accuracies and as many common errors as possible.
        highest = [cohen_kappa_score(np.sort(a_N), np.sort(b_N)) for b_N in reference_KN]
        overlap = [(a_N & b_N).sum() / min(a_N.sum(), b_N.sum()) for b_N in reference_KN]
        assert found.kappa_M[row] == pytest.approx(max(kappa))
        assert found.relative_M[row] == pytest.approx(max(np.divide(kappa, highest)))
        assert found.overlap_M[row] == pytest.approx(max(overlap))


def test_a_worse_model_that_repeats_all_errors_has_a_low_iou_but_nothing_new():
    original_N = np.arange(1000) < 80  # 8% errors
    worse_N = np.arange(1000) < 900  # 90% errors, all of the original's among them
    found = error_consistency(worse_N[None], original_N[None])
    # c − ab = 0.08 − 0.072 = 0.008 and a + b − 2ab = 0.836
    assert max_iou(worse_N[None], original_N[None])[0] == pytest.approx(0.08 / 0.9)
    assert found.kappa_M[0] == pytest.approx(2 * 0.008 / 0.836)
    assert found.relative_M[0] == found.overlap_M[0] == 1


def test_a_model_that_errs_everywhere_is_not_new():
    everywhere_N, original_N = np.ones(1000, dtype=bool), np.arange(1000) < 80
    found = error_consistency(everywhere_N[None], original_N[None])
    assert max_iou(everywhere_N[None], original_N[None])[0] == np.float32(0.08)
    assert (found.kappa_M[0], found.relative_M[0], found.overlap_M[0]) == (0, 1, 1)


def test_independent_errors_have_no_kappa_and_other_errors_a_negative_one():
    a_N, b_N = np.arange(100) % 10 == 0, np.arange(100) < 20  # 10% and 20% errors, 2% in common
    found = error_consistency(a_N[None], b_N[None])
    assert found.kappa_M[0] == found.relative_M[0] == 0 and found.overlap_M[0] == pytest.approx(0.2)
    assert error_consistency(a_N[None], ~a_N[None]).kappa_M[0] < 0


@pytest.mark.parametrize(
    "wrong, reference, expected",
    [([0, 0, 0], [0, 0, 0], (1, 1, 1)), ([1, 1, 1], [1, 1, 1], (1, 1, 1)), ([0, 0, 0], [1, 0, 0], (0, 0, 0))],
)
def test_the_error_consistency_of_models_without_errors_or_with_errors_everywhere(wrong, reference, expected):
    with np.errstate(all="raise"):
        found = error_consistency(np.array([wrong], dtype=bool), np.array([reference], dtype=bool))
    assert (found.kappa_M[0], found.relative_M[0], found.overlap_M[0]) == expected


@pytest.mark.parametrize("rows", [1, 2, M])
def test_the_error_consistency_of_a_source_with_itself_leaves_out_the_diagonal(wrong_MN, rows, monkeypatch):
    monkeypatch.setattr(metrics, "ROWS", rows)
    assert error_consistency(wrong_MN, wrong_MN).kappa_M == pytest.approx(np.ones(M))
    expected = [max(cohen_kappa_score(wrong_MN[i], wrong_MN[j]) for j in range(M) if j != i) for i in range(M)]
    assert error_consistency(wrong_MN, wrong_MN, pair_with_others(len(wrong_MN))).kappa_M == pytest.approx(
        np.array(expected)
    )


def test_the_disagreement_is_the_hamming_distance(wrong_MN, reference_KN):
    np.testing.assert_allclose(
        disagreement_matrix(wrong_MN, reference_KN), cdist(wrong_MN, reference_KN, "hamming"), rtol=1e-6
    )


@pytest.mark.parametrize("columns", [4, D])
def test_the_products_of_deviations_from_the_mean_of_the_references(vectors_MD, random, columns, monkeypatch):
    monkeypatch.setattr(metrics, "COLUMNS", columns)
    reference_KD = random.normal(5, 1, size=(K, D))
    mean_D = reference_KD.mean(axis=0)
    expected = (vectors_MD - mean_D) @ (reference_KD - mean_D).T
    np.testing.assert_allclose(multiply_deviations(vectors_MD, reference_KD), expected)


def test_distances_agree_with_scipy(vectors_MD, random):
    reference_KD = random.normal(size=(K, D))
    np.testing.assert_allclose(l2_matrix(vectors_MD, reference_KD), cdist(vectors_MD, reference_KD), rtol=1e-6)
    np.testing.assert_allclose(min_l2(vectors_MD, reference_KD), cdist(vectors_MD, reference_KD).min(axis=1), rtol=1e-6)


def test_the_distance_of_a_near_copy_keeps_its_digits(random):
    vector = random.normal(size=(1, 2048)).astype(np.float32) * 10
    copy = vector + np.float32(1e-3)
    assert min_l2(copy, vector)[0] == pytest.approx(cdist(copy.astype(float), vector.astype(float))[0, 0], rel=1e-3)


@pytest.mark.parametrize("columns", [1, 4, D, D + 1])
def test_no_distance_depends_on_the_size_of_blocks(vectors_MD, random, columns, monkeypatch):
    reference_KD = random.normal(size=(K, D))
    monkeypatch.setattr(metrics, "COLUMNS", columns)
    np.testing.assert_allclose(l2_matrix(vectors_MD, reference_KD), cdist(vectors_MD, reference_KD), rtol=1e-12)


def test_the_spacing_of_a_right_triangle():
    spacing = Spacing.measure(np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]]))
    assert spacing.smallest == 3 and spacing.mean == pytest.approx(4)


def test_the_variance_kept_is_1_for_copies_0_for_the_mean_and_none_for_equal_originals():
    original_KD = np.random.default_rng(0).normal(3.0, 2.0, size=(50, 7))
    deviation_KD = original_KD - original_KD.mean(axis=0)
    assert variance_kept(original_KD, original_KD) == 1
    assert variance_kept(original_KD - deviation_KD, original_KD) == pytest.approx(0)
    assert variance_kept(original_KD - 0.5 * deviation_KD, original_KD) == pytest.approx(0.75)
    assert variance_kept(original_KD - 2 * deviation_KD, original_KD) == pytest.approx(-3), "worse than the mean"
    assert variance_kept(np.zeros((3, 7)), np.ones((3, 7))) is None


def test_near_copies_are_closer_than_any_two_originals_to_each_other():
    assert near_copies(np.array([0.0, 2.9, 3.0, 9.0]), Spacing(smallest=3.0, mean=4.0)) == 0.5


def test_an_exact_copy_is_a_near_copy_even_if_originals_are_equal():
    assert near_copies(np.array([0.0, 0.1]), Spacing(smallest=0.0, mean=1.0)) == 0.5


def test_the_mean_of_scattered_originals_counts_as_a_near_copy_without_being_one(random):
    vectors_KD = random.normal(size=(20, 500))
    assert near_copies(min_l2(vectors_KD.mean(axis=0, keepdims=True), vectors_KD), Spacing.measure(vectors_KD)) == 1


def test_a_vector_is_left_out_of_its_own_references_only_with_same(vectors_MD):
    distances = cdist(vectors_MD, vectors_MD)
    assert min_l2(vectors_MD, vectors_MD) == pytest.approx(np.zeros(M))
    np.testing.assert_allclose(
        min_l2(vectors_MD, vectors_MD, same=True), (distances + np.diag([np.inf] * M)).min(axis=1)
    )


def test_a_summary_of_known_numbers():
    assert summarize(np.array([0.1, 0.2, 0.6, 0.9])) == pytest.approx(
        {
            "n": 4,
            "accuracy_mean": 0.45,
            "accuracy_std": np.sqrt((0.35**2 + 0.25**2 + 0.15**2 + 0.45**2) / 3),
            "accuracy_best": 0.9,
            "accuracy_median": 0.4,
            "accuracy_worst": 0.1,
        }
    )


def test_one_model_has_no_spread():
    assert "accuracy_std" not in summarize(np.array([0.5]))


def test_the_best_value_of_a_summary_is_the_lowest_if_lower_is_better():
    distance = Metric("fid", "distance", higher_is_better=False)
    row = summarize(np.array([3.0, 1.0, 2.0]), distance)
    assert (row["accuracy_best"], row["accuracy_median"], row["accuracy_worst"]) == (1.0, 2.0, 3.0)
