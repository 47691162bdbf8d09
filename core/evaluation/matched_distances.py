"""Distances between networks after matching their hidden units, so that a renumbered copy is found as a copy.

M models · K references (the originals) · D numbers in one vector.
"""

import numpy as np

from core.checkpoints.matching import align
from core.checkpoints.symmetry import PermutationSymmetry
from core.evaluation.metrics import l2_matrix


def measure_matched_l2(
    symmetry: PermutationSymmetry,
    vectors_MD: np.ndarray,
    reference_KD: np.ndarray,
    *,
    nearest: int = 10,
    apart_MK: np.ndarray | None = None,
) -> np.ndarray:
    """Return an upper bound of the distance of every pair over all orders of the hidden units, (M, K) float64.

    All vectors are matched to one center, the mean of the matched references. Distances in these common coordinates
    choose the `nearest` references of each model, to which it is then matched directly. The smallest of the plain
    distance and these two counts. References that are given as models are treated like any other model, so distances
    of originals among each other are a fair yardstick.

    Args:
        symmetry: The groups of exchangeable units; without a group, the distances are those of `l2_matrix`.
        vectors_MD: The models.
        reference_KD: The references.
        nearest: The number of references to which each model is matched directly.
        apart_MK: Which references count for each model, at least one; None: all. A model that is one of the references
            should not spend one of its `nearest` on itself.
    """
    distance_MK = l2_matrix(vectors_MD, reference_KD)
    if not symmetry.groups:
        return distance_MK
    center_D = find_center(symmetry, reference_KD)
    models_MD, aligned_KD = (align_all(symmetry, each, center_D) for each in (vectors_MD, reference_KD))
    distance_MK = np.minimum(distance_MK, l2_matrix(models_MD, aligned_KD))
    promising_MK = distance_MK if apart_MK is None else np.where(apart_MK, distance_MK, np.inf)
    for model, candidates in enumerate(np.argsort(promising_MK, axis=1, kind="stable")[:, :nearest]):
        for candidate in candidates[np.isfinite(promising_MK[model, candidates])]:
            matched_1D = align(symmetry, models_MD[model], aligned_KD[candidate])[None]
            direct = l2_matrix(matched_1D, aligned_KD[candidate][None]).item()
            distance_MK[model, candidate] = min(distance_MK[model, candidate], direct)
    return distance_MK


def find_center(symmetry: PermutationSymmetry, reference_KD: np.ndarray) -> np.ndarray:
    """Return the mean (D,) of the references after matching them to the first one, float64."""
    return align_all(symmetry, reference_KD, reference_KD[0]).mean(axis=0, dtype=np.float64)


def align_all(symmetry: PermutationSymmetry, vectors_MD: np.ndarray, reference_D: np.ndarray) -> np.ndarray:
    """Return the vectors (M, D), each with its units in the order of the reference."""
    return np.stack([align(symmetry, vector_D, reference_D) for vector_D in vectors_MD])
