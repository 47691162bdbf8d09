"""Measures over score tables: pure functions of numpy arrays.

M models · K reference models (the originals) · N images · D numbers in one vector.
"""

import numpy as np


def iou_matrix(wrong_MN: np.ndarray, reference_KN: np.ndarray) -> np.ndarray:
    """Intersection over union of the images that two models get wrong, for every pair, (M, K) in [0, 1].

    Two models without any error behave alike: their similarity is 1.
    """
    # float32 holds counts up to 2^24 exactly, and its matrix product is the fast one
    wrong, reference = wrong_MN.astype(np.float32), reference_KN.astype(np.float32)
    both = wrong @ reference.T
    either = wrong.sum(1)[:, None] + reference.sum(1)[None, :] - both
    return np.where(either == 0, 1.0, both / np.maximum(either, 1))


def max_iou(wrong_MN: np.ndarray, reference_KN: np.ndarray, *, same: bool = False) -> np.ndarray:
    """Each model's largest IoU with any reference (M,): low means novel.

    Args:
        same: the references are these very models, in this order; a model is then not compared with itself.
    """
    similarity_MK = iou_matrix(wrong_MN, reference_KN)
    if same:
        np.fill_diagonal(similarity_MK, -np.inf)
    return similarity_MK.max(axis=1)


def within_iou(wrong_MN: np.ndarray) -> float:
    """Mean IoU over all pairs of different models of one source; needs at least 2."""
    return float(iou_matrix(wrong_MN, wrong_MN)[np.triu_indices(len(wrong_MN), k=1)].mean())


def l2_matrix(vectors_MD: np.ndarray, reference_KD: np.ndarray) -> np.ndarray:
    """Euclidean distance of every pair, (M, K).

    From the differences, row by row: the expansion |a|² + |b|² − 2ab loses all digits for near-copies.
    """
    return np.stack([np.linalg.norm(reference_KD - vector_D, axis=1) for vector_D in vectors_MD])


def min_l2(vectors_MD: np.ndarray, reference_KD: np.ndarray, *, same: bool = False) -> np.ndarray:
    """Each model's distance to the nearest reference (M,); `same` as in `max_iou`."""
    distance_MK = l2_matrix(vectors_MD, reference_KD)
    if same:
        np.fill_diagonal(distance_MK, np.inf)
    return distance_MK.min(axis=1)


def summarize(accuracy_M: np.ndarray) -> dict[str, float]:
    """Mean, spread and extremes; the spread (ddof = 1) only where there are at least two models."""
    spread = {"accuracy_std": float(accuracy_M.std(ddof=1))} if len(accuracy_M) > 1 else {}
    return {
        "n": len(accuracy_M),
        "accuracy_mean": float(accuracy_M.mean()),
        **spread,
        "accuracy_best": float(accuracy_M.max()),
        "accuracy_median": float(np.median(accuracy_M)),
        "accuracy_worst": float(accuracy_M.min()),
    }


def best_on(accuracy_M: np.ndarray, loss_M: np.ndarray) -> int:
    """The model that a user would pick on this split: highest accuracy, the lowest loss among equals."""
    return int(np.lexsort((loss_M, -accuracy_M))[0])
