"""Measures over score tables, as pure functions of numpy arrays.

M models · K reference models (the originals) · N images · D numbers in one vector.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist

from core.evaluation.scores import ACCURACY, Metric

ROWS = 512  # number of models whose masks are held as floats at a time, to bound memory
COLUMNS = 8192  # entries of a vector compared at a time, because cdist copies its input as float64


def iou_blocks(wrong_MN: np.ndarray, reference_KN: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield `iou_matrix` in blocks of (row indices, IoU of these rows), so that memory is bounded for any M."""
    # float32 holds counts up to 2^24 exactly and has a fast matrix product.
    reference = reference_KN.astype(np.float32)
    for rows in np.array_split(np.arange(len(wrong_MN)), -(-len(wrong_MN) // ROWS)):
        wrong = wrong_MN[rows].astype(np.float32)
        both = wrong @ reference.T
        either = wrong.sum(1)[:, None] + reference.sum(1)[None, :] - both
        yield rows, np.where(either == 0, np.float32(1), both / np.maximum(either, 1))


def iou_matrix(wrong_MN: np.ndarray, reference_KN: np.ndarray) -> np.ndarray:
    """Return the intersection over union of the images that two models get wrong, for every pair, (M, K) in [0, 1].

    The IoU of two models without any error is 1, because they behave alike.
    """
    return np.concatenate([similarity for _, similarity in iou_blocks(wrong_MN, reference_KN)])


def find_most_alike(
    wrong_MN: np.ndarray, reference_KN: np.ndarray, *, same: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest IoU of each model with any reference and the index of that reference, two arrays (M,).

    Args:
        wrong_MN: Mask of the images that each model gets wrong.
        reference_KN: Mask of the images that each reference model gets wrong.
        same: Whether the references are the models themselves, in the same order. A model is then not compared with
            itself, and at least 2 models are needed.
    """
    largest_M, which_M = np.empty(len(wrong_MN), np.float32), np.empty(len(wrong_MN), np.int64)
    for rows, similarity in iou_blocks(wrong_MN, reference_KN):
        if same:
            similarity[np.arange(len(rows)), rows] = -np.inf
        largest_M[rows], which_M[rows] = similarity.max(axis=1), similarity.argmax(axis=1)
    return largest_M, which_M


def max_iou(wrong_MN: np.ndarray, reference_KN: np.ndarray, *, same: bool = False) -> np.ndarray:
    """Return the largest IoU of each model with any reference (M,), where low means novel.

    `same` is explained in `find_most_alike`.
    """
    return find_most_alike(wrong_MN, reference_KN, same=same)[0]


def within_iou(wrong_MN: np.ndarray) -> float:
    """Return the mean IoU over all pairs of different models of one source, which needs at least 2 models."""
    total = sum(
        float(similarity[np.arange(len(wrong_MN)) > rows[:, None]].sum(dtype=np.float64))
        for rows, similarity in iou_blocks(wrong_MN, wrong_MN)
    )
    return total / (len(wrong_MN) * (len(wrong_MN) - 1) / 2)


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


def min_l2(vectors_MD: np.ndarray, reference_KD: np.ndarray, *, same: bool = False) -> np.ndarray:
    """Return the distance of each model to the nearest reference (M,); `same` is explained in `find_most_alike`."""
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
