"""Measures over score tables, as pure functions of numpy arrays.

M models · K reference models (the originals) · N images · D numbers in one vector.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist

from core.evaluation.scores import ACCURACY, Metric

ROWS = 512  # number of models whose masks are held as floats at a time, to bound memory
COLUMNS = 8192  # entries of a vector compared at a time, because cdist copies its input as float64


@dataclass(frozen=True)
class ErrorCounts:
    """Numbers of images that models of a block and the references get wrong, float32."""

    num_images: int
    rows: np.ndarray  # indices of the models
    both_MK: np.ndarray  # images that the model and the reference get wrong
    model_M1: np.ndarray
    reference_1K: np.ndarray


Compare = Callable[[ErrorCounts], np.ndarray]  # a measure of the similarity of every pair (M, K)


def count_errors(wrong_MN: np.ndarray, reference_KN: np.ndarray) -> Iterator[ErrorCounts]:
    """Yield the counts of common errors in blocks of models, so that memory is bounded for any M."""
    # float32 holds counts up to 2^24 exactly and has a fast matrix product.
    reference = reference_KN.astype(np.float32)
    for rows in np.array_split(np.arange(len(wrong_MN)), -(-len(wrong_MN) // ROWS)):
        wrong = wrong_MN[rows].astype(np.float32)
        num_images, both_MK = wrong_MN.shape[1], wrong @ reference.T
        yield ErrorCounts(num_images, rows, both_MK, wrong.sum(1)[:, None], reference.sum(1)[None, :])


def compare_iou(counts: ErrorCounts) -> np.ndarray:
    """Return the intersection over union of the images that two models get wrong, for every pair, (M, K) in [0, 1].

    The IoU of two models without any error is 1, because they behave alike.
    """
    either_MK = counts.model_M1 + counts.reference_1K - counts.both_MK
    return np.where(either_MK == 0, np.float32(1), counts.both_MK / np.maximum(either_MK, 1))


def iou_matrix(wrong_MN: np.ndarray, reference_KN: np.ndarray) -> np.ndarray:
    """Return the intersection over union of the images that two models get wrong (`compare_iou`), (M, K)."""
    return np.concatenate([compare_iou(counts) for counts in count_errors(wrong_MN, reference_KN)])


def pair_with_others(k: int) -> np.ndarray:
    """Return a mask (K, K) that is true except on the diagonal: each of K models is compared with all other models."""
    return ~np.eye(k, dtype=bool)


def find_most_alike(
    wrong_MN: np.ndarray, reference_KN: np.ndarray, apart_MK: np.ndarray | None = None, compare: Compare = compare_iou
) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest similarity of each model to any reference and the index of that reference, two arrays (M,).

    Args:
        wrong_MN: Mask of the images that each model gets wrong.
        reference_KN: Mask of the images that each reference model gets wrong.
        apart_MK: Which references count for each model, at least one; None: all. A model that is one of the references
            must not be compared with itself, nor with its neighbors in time
            (`core.evaluation.yardstick.pair_originals`).
        compare: The measure of similarity.
    """
    largest, which = [], []
    for counts in count_errors(wrong_MN, reference_KN):
        similarity = compare(counts)
        if apart_MK is not None:
            similarity[~apart_MK[counts.rows]] = -np.inf
        largest.append(similarity.max(axis=1))
        which.append(similarity.argmax(axis=1))
    return np.concatenate(largest), np.concatenate(which)


def max_iou(wrong_MN: np.ndarray, reference_KN: np.ndarray, apart_MK: np.ndarray | None = None) -> np.ndarray:
    """Return the largest IoU of each model with any reference (M,), where low means novel.

    `apart_MK` is explained in `find_most_alike`.
    """
    return find_most_alike(wrong_MN, reference_KN, apart_MK)[0]


def within_iou(wrong_MN: np.ndarray) -> float:
    """Return the mean IoU over all pairs of different models of one source, which needs at least 2 models."""
    total = sum(
        float(compare_iou(counts)[np.arange(len(wrong_MN)) > counts.rows[:, None]].sum(dtype=np.float64))
        for counts in count_errors(wrong_MN, wrong_MN)
    )
    return total / (len(wrong_MN) * (len(wrong_MN) - 1) / 2)


@dataclass(frozen=True)
class ErrorConsistency:
    """How much more often two models err on the same images than their accuracies explain.

    Each array holds the largest value over the references. The IoU of errors cannot exceed the smaller number of errors
    over the larger one, so a model that is much worse than every reference has a low IoU although it may repeat all
    errors of a reference. `relative_M` and `overlap_M` reach 1 for this model.
    """

    kappa_M: np.ndarray  # Cohen's κ, at most 1; 0 if the common errors are as many as chance gives
    relative_M: np.ndarray  # κ over the largest κ that is possible at the accuracies of the two models, at most 1
    overlap_M: np.ndarray  # common errors over the errors of the model that errs less, in [0, 1]


def error_consistency(
    wrong_MN: np.ndarray, reference_KN: np.ndarray, apart_MK: np.ndarray | None = None
) -> ErrorConsistency:
    """Return the error consistency of each model with the references (Geirhos et al. 2020, arXiv 2006.16736).

    With the error rates a and b and the rate c of common errors, the observed agreement is 1 − a − b + 2c, and chance
    gives 1 − a − b + 2ab. Hence κ = 2 (c − ab) / (a + b − 2ab). The largest c is min(a, b), so κ over its largest
    value is (c − ab) / (min(a, b) − ab).

    Two conventions fill 0/0. Two models without errors, and two that err everywhere, behave alike: all three values
    are 1. If only κ's largest value is 0, one model has no errors or errs everywhere, and the relative κ is the
    overlap. The overlap is 0 if exactly one of the models has no errors, like the IoU.

    Args:
        wrong_MN: Mask of the images that each model gets wrong.
        reference_KN: Mask of the images that each reference model gets wrong.
        apart_MK: Which references count for each model, as in `find_most_alike`.
    """
    largest_M3 = np.empty((len(wrong_MN), 3))
    for counts in count_errors(wrong_MN, reference_KN):
        for column, values_MK in enumerate(compare_errors(counts)):
            if apart_MK is not None:
                values_MK[~apart_MK[counts.rows]] = -np.inf
            largest_M3[counts.rows, column] = values_MK.max(axis=1)
    return ErrorConsistency(*largest_M3.T)


def measure_similarity(
    wrong_MN: np.ndarray, reference_KN: np.ndarray, apart_MK: np.ndarray | None = None
) -> dict[str, float]:
    """Return how similar the errors are to those of the originals, as means over models, without those that are NaN.

    Each measure of a model is its largest one over the originals that count (`apart_MK`, as in `find_most_alike`). Like
    the IoU, κ is low if one of two models errs much more often than the other, even on the same images. The relative κ
    and the overlap are not.
    """
    consistency = error_consistency(wrong_MN, reference_KN, apart_MK)
    means = {
        "max_iou_mean": float(max_iou(wrong_MN, reference_KN, apart_MK).mean()),
        "kappa_mean": float(consistency.kappa_M.mean()),
        "kappa_relative_mean": float(consistency.relative_M.mean()),
        "overlap_mean": float(consistency.overlap_M.mean()),
    }
    return {name: mean for name, mean in means.items() if np.isfinite(mean)}


def compare_errors(counts: ErrorCounts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return κ, κ over its largest value, and the overlap of every pair, three arrays (M, K)."""
    num_images = counts.num_images
    a, b = counts.model_M1.astype(np.float64), counts.reference_1K.astype(np.float64)
    # All terms are multiplied by N², so that they are whole numbers and 0/0 is recognized exactly.
    excess_MK = num_images * counts.both_MK.astype(np.float64) - a * b
    fewer_MK, neither_MK = np.minimum(a, b), a + b == 0
    overlap_MK = divide(counts.both_MK, fewer_MK, neither_MK.astype(np.float64))
    kappa_MK = divide(2 * excess_MK, num_images * (a + b) - 2 * a * b, np.ones_like(excess_MK))
    relative_MK = divide(excess_MK, num_images * fewer_MK - a * b, overlap_MK)
    return kappa_MK, relative_MK, overlap_MK


def compare_relative_kappa(counts: ErrorCounts) -> np.ndarray:
    """Return κ over its largest value for every pair, (M, K)."""
    return compare_errors(counts)[1]


def divide(numerator: np.ndarray, denominator: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    """Return the quotient, with the values of `otherwise` where the denominator is 0."""
    return np.divide(numerator, denominator, out=otherwise.copy(), where=denominator != 0)


def disagreement_matrix(wrong_MN: np.ndarray, reference_KN: np.ndarray) -> np.ndarray:
    """Return the share of images on which exactly one of two models errs, for every pair, (M, K) in [0, 1]."""
    blocks = [
        counts.model_M1 + counts.reference_1K - 2 * counts.both_MK for counts in count_errors(wrong_MN, reference_KN)
    ]
    return np.concatenate(blocks) / wrong_MN.shape[1]


def l2_matrix(vectors_MD: np.ndarray, reference_KD: np.ndarray) -> np.ndarray:
    """Return the Euclidean distance of every pair, (M, K).

    The distance is computed from the differences in float64, because the expansion |a|² + |b|² − 2ab loses all digits
    for near-copies.
    """
    squared_MK = np.zeros((len(vectors_MD), len(reference_KD)))
    for start in range(0, vectors_MD.shape[1], COLUMNS):
        columns = slice(start, start + COLUMNS)
        squared_MK += cdist(vectors_MD[:, columns], reference_KD[:, columns], "sqeuclidean")
    return np.sqrt(squared_MK)


def multiply_deviations(vectors_MD: np.ndarray, reference_KD: np.ndarray) -> np.ndarray:
    """Return the inner products of the deviations from the mean of the references, for every pair, (M, K) float64."""
    products_MK = np.zeros((len(vectors_MD), len(reference_KD)))
    for start in range(0, vectors_MD.shape[1], COLUMNS):
        columns = slice(start, start + COLUMNS)
        reference = reference_KD[:, columns].astype(np.float64)
        mean = reference.mean(axis=0)
        products_MK += (vectors_MD[:, columns] - mean) @ (reference - mean).T
    return products_MK


def min_l2(vectors_MD: np.ndarray, reference_KD: np.ndarray, *, same: bool = False) -> np.ndarray:
    """Return the distance of each model to the nearest reference (M,).

    `same` means that the references are the models themselves, in the same order. A model is then not compared with
    itself, and at least 2 models are needed.
    """
    distance_MK = l2_matrix(vectors_MD, reference_KD)
    if same:
        np.fill_diagonal(distance_MK, np.inf)
    return distance_MK.min(axis=1)


@dataclass(frozen=True)
class Spacing:
    """Distances between originals, the scale for distances of other models to them."""

    smallest: float  # smallest distance over all pairs
    mean: float  # mean distance over all pairs

    @classmethod
    def measure(cls, vectors_KD: np.ndarray) -> "Spacing":
        """Measure the distances over all pairs of at least 2 originals."""
        distances = l2_matrix(vectors_KD, vectors_KD)[np.triu_indices(len(vectors_KD), k=1)]
        return cls(float(distances.min()), float(distances.mean()))


def near_copies(min_l2_M: np.ndarray, spacing: Spacing) -> float:
    """Return the share of models that are closer to an original than any two originals are to each other.

    An exact copy counts even if two originals are equal. A high share alone does not show memorization: the mean of the
    originals may be closer to each original than the originals are to each other. Compare it with the share of
    averages of originals.
    """
    return float(((min_l2_M < spacing.smallest) | (min_l2_M == 0)).mean())


def choose_evenly(count: int, chosen: int) -> np.ndarray:
    """Return the numbers of `chosen` of `count` rows at even distances, with the first and the last row if chosen > 1.

    All rows are chosen if there are no more than `chosen`.
    """
    return np.linspace(0, count - 1, min(count, chosen)).round().astype(int)


def variance_kept(reconstructed_KD: np.ndarray, original_KD: np.ndarray) -> float | None:
    """Return the share of the variance among the originals that their reconstructions keep.

    The share is at most 1, 0 if each reconstruction is the mean of the originals, and negative if reconstructions are
    worse than the mean. It is None if all originals are equal. Fewer reconstructions than originals belong to the rows
    of `choose_evenly`.
    """
    mean_D = original_KD.mean(axis=0)
    rows = choose_evenly(len(original_KD), len(reconstructed_KD))
    pairs = zip(reconstructed_KD, original_KD[rows], strict=True)  # One row at a time, because K × D may be large.
    lost = sum(float(((after - before) ** 2).sum()) for after, before in pairs)
    spread = sum(float(((before - mean_D) ** 2).sum()) for before in original_KD[rows])
    return 1 - lost / spread if spread else None


def summarize(accuracy_M: np.ndarray, metric: Metric = ACCURACY) -> dict[str, float]:
    """Return the number of models, mean, best, median, worst, and the std (ddof = 1) if there are at least two models.

    Args:
        accuracy_M: Values of the primary metric.
        metric: The primary metric, which defines whether the highest or the lowest value is the best.
    """
    spread = {"accuracy_std": float(accuracy_M.std(ddof=1))} if len(accuracy_M) > 1 else {}
    low, high = float(accuracy_M.min()), float(accuracy_M.max())
    best, worst = (high, low) if metric.higher_is_better else (low, high)
    return {
        "n": len(accuracy_M),
        "accuracy_mean": float(accuracy_M.mean()),
        **spread,
        "accuracy_best": best,
        "accuracy_median": float(np.median(accuracy_M)),
        "accuracy_worst": worst,
    }
