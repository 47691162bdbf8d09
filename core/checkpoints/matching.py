"""Weight matching: renumbering the hidden units of one network like those of another one (Git Re-Basin).

Ainsworth, Hayase and Srinivasa (ICLR 2023, arXiv 2209.04836, Algorithm 1) maximize the inner product of a network with
a reference by one linear assignment per layer, until no layer improves it. The largest inner product is the smallest
Euclidean distance, because a permutation keeps the norm. All tensors weigh the same for this reason.

D numbers in one flattened subset · U units of one group.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from core.checkpoints.symmetry import Permutations, PermutationSymmetry, UnitTensor

MAX_ROUNDS = 50  # passes over all groups; a few suffice
ROUNDING = 1e-12  # share of the product of the norms below which an improvement is rounding


def align(symmetry: PermutationSymmetry, vector_D: np.ndarray, reference_D: np.ndarray) -> np.ndarray:
    """Return `vector_D` with its units in the order of the reference, see `match`."""
    return symmetry.permute(vector_D, match(symmetry, vector_D, reference_D))


def match(symmetry: PermutationSymmetry, vector_D: np.ndarray, reference_D: np.ndarray) -> Permutations:
    """Return the permutations with which `vector_D` comes near the reference, a local minimum of the distance.

    Groups take turns in their order in the network. In the first pass, the weights between a group and a group that has
    no permutation yet are compared after sorting. The result therefore does not depend on the order in which the units
    of `vector_D` are stored, except for ties: a network and its permuted copies are aligned to the same vector.

    A vector that is not finite keeps its order.

    Args:
        symmetry: The groups of exchangeable units.
        vector_D: A vector of the subset of `symmetry`.
        reference_D: Another vector of this subset.
    """
    if not np.isfinite(vector_D).all():
        return tuple(np.arange(group.size) for group in symmetry.groups)
    matcher = _Matcher(symmetry, vector_D, reference_D)
    for group in range(len(symmetry.groups)):
        matcher.permutations[group] = _assign(matcher.compare_units(group))
    for _ in range(MAX_ROUNDS):
        if not any([matcher.improve(group) for group in range(len(symmetry.groups))]):
            break
    return tuple(permutation for permutation in matcher.permutations if permutation is not None)


def _assign(product_UU: np.ndarray) -> np.ndarray:
    """Return which unit of the vector (column) takes the place of each unit of the reference (row)."""
    return linear_sum_assignment(product_UU, maximize=True)[1]


@dataclass(frozen=True)
class _Pair:
    """One parameter of both networks, in float64."""

    tensor: UnitTensor
    ours: np.ndarray
    theirs: np.ndarray

    def multiply(self, permutations: Sequence[np.ndarray | None]) -> float:
        """Return the inner product of both, with the units of `ours` permuted."""
        return float((self.tensor.permute(self.ours, permutations) * self.theirs).sum())

    def compare_slices(self, permutations: Sequence[np.ndarray | None], dim: int) -> np.ndarray:
        """Return the inner products of all slices along one dimension, `theirs` (rows) with `ours` (columns), (U, U).

        The dimensions of groups that have no permutation yet are sorted, jointly, because their order means nothing.
        """
        shape = self.tensor.shape
        others = [other for other in range(len(shape)) if other != dim]
        unknown = [other for other in others if self._is_unknown(other, permutations)]
        known = [other for other in others if other not in unknown]
        num_unknown = math.prod(shape[other] for other in unknown)
        sides = []
        for values in (self.theirs, self.tensor.permute(self.ours, permutations, without=dim)):
            rows = values.transpose(dim, *known, *unknown).reshape(shape[dim], -1, num_unknown)
            sides.append((np.sort(rows, axis=-1) if unknown else rows).reshape(shape[dim], -1))
        return sides[0] @ sides[1].T

    def _is_unknown(self, dim: int, permutations: Sequence[np.ndarray | None]) -> bool:
        """Return whether the units along a dimension have no permutation yet."""
        group = self.tensor.groups[dim]
        return group is not None and permutations[group] is None


class _Matcher:
    """The state of one matching, with one permutation for each group (None: not assigned yet)."""

    def __init__(self, symmetry: PermutationSymmetry, vector_D: np.ndarray, reference_D: np.ndarray):
        self.pairs = [
            _Pair(
                tensor,
                *(each[tensor.columns].astype(np.float64).reshape(tensor.shape) for each in (vector_D, reference_D)),
            )
            for tensor in symmetry.tensors
        ]
        self.permutations: list[np.ndarray | None] = [None] * len(symmetry.groups)
        self.constant: dict[tuple[int, int], np.ndarray] = {}  # products that no other group changes
        squares = [[float((each**2).sum()) for each in (pair.ours, pair.theirs)] for pair in self.pairs]
        self.rounding = ROUNDING * math.sqrt(math.prod(map(sum, zip(*squares, strict=True))))

    def compare_units(self, group: int) -> np.ndarray:
        """Return the inner products of all units of the reference (rows) with those of the vector (columns), (U, U)."""
        products = [
            self._compare(index, dim)
            for index, pair in enumerate(self.pairs)
            for dim, owner in enumerate(pair.tensor.groups)
            if owner == group
        ]
        return np.sum(products, axis=0)

    def _compare(self, index: int, dim: int) -> np.ndarray:
        """Return the part of `compare_units` that one dimension of one parameter contributes."""
        if (index, dim) in self.constant:
            return self.constant[index, dim]
        pair = self.pairs[index]
        product_UU = pair.compare_slices(self.permutations, dim)
        if sum(owner is not None for owner in pair.tensor.groups) == 1:
            self.constant[index, dim] = product_UU
        return product_UU

    def improve(self, group: int) -> bool:
        """Assign the units of one group anew, if this increases the inner product, and return whether it did."""
        product_UU, before_U = self.compare_units(group), self.permutations[group]
        after_U = _assign(product_UU)
        places_U = np.arange(len(after_U))
        gain = float((product_UU[places_U, after_U] - product_UU[places_U, before_U]).sum())
        if gain > self.rounding and any(pair.tensor.groups.count(group) > 1 for pair in self.pairs):
            # The products are linear in a permutation only if the group acts once on each parameter.
            gain = self._multiply(group, after_U) - self._multiply(group, before_U)
        if gain > self.rounding:
            self.permutations[group] = after_U
        return gain > self.rounding

    def _multiply(self, group: int, permutation: np.ndarray | None) -> float:
        """Return the inner product over the parameters of a group, if it had this permutation."""
        permutations = [permutation if index == group else each for index, each in enumerate(self.permutations)]
        return sum(pair.multiply(permutations) for pair in self.pairs if group in pair.tensor.groups)
