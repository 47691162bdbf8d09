"""The permutation symmetry of a parameter subset: which hidden units of a network can trade places.

Renumbering the hidden units of a layer, with their incoming and their outgoing weights, changes the numbers of a vector
but not the function of the network (Hecht-Nielsen 1990). `core.checkpoints.matching` undoes such renumberings.

D numbers in one flattened subset.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from core.checkpoints.subset import ParameterSubset

Permutations = tuple[np.ndarray, ...]  # for each group, which of the units takes each place, int64


@dataclass(frozen=True)
class UnitAxis:
    """An axis of a parameter along which the units of a group lie.

    The axis has outer · size · inner numbers. It is viewed as (outer, size, inner), and the axis in the middle is
    permuted. A convolution before a linear layer has inner = H · W, and whole heads in joint queries, keys and values
    have outer = 3 and inner = the features of one head.
    """

    name: str  # of the parameter
    axis: int
    outer: int = 1
    inner: int = 1


@dataclass(frozen=True)
class UnitGroup:
    """Exchangeable units: any permutation of them, applied along all axes at once, keeps the network's function."""

    size: int
    axes: tuple[UnitAxis, ...]


@dataclass(frozen=True)
class UnitTensor:
    """A parameter in a flattened vector, viewed so that each group has a dimension of its own."""

    columns: slice  # the place of the parameter in the vector
    shape: tuple[int, ...]
    groups: tuple[int | None, ...]  # the group whose units lie along each dimension, by its index

    def permute(self, values: np.ndarray, permutations: Sequence[np.ndarray | None], without: int = -1) -> np.ndarray:
        """Return `values` of this shape with permuted units, except along the dimension `without`.

        A group whose permutation is None keeps its order.
        """
        for dim, group in enumerate(self.groups):
            if group is not None and dim != without and (permutation := permutations[group]) is not None:
                values = values.take(permutation, axis=dim)
        return values


@dataclass(frozen=True)
class PermutationSymmetry:
    """The groups of exchangeable units whose parameters all lie in a subset.

    Raises:
        ValueError: A group does not fit the shape of a parameter, or two groups share units.
    """

    subset: ParameterSubset
    groups: tuple[UnitGroup, ...]

    def __post_init__(self) -> None:
        _ = self.tensors  # An invalid group is an error here, not at its first use.

    @classmethod
    def within(cls, subset: ParameterSubset, groups: Iterable[UnitGroup]) -> "PermutationSymmetry":
        """Return the symmetry of a subset, without the groups that act on a parameter outside the subset.

        A vector of the subset cannot hold a permutation of these groups, because the other parameters are frozen.
        """
        names = set(subset.names)
        return cls(subset, tuple(group for group in groups if names.issuperset(each.name for each in group.axes)))

    @cached_property
    def tensors(self) -> tuple[UnitTensor, ...]:
        """The parameters on which a group acts."""
        found, start = [], 0
        for name, shape, size in zip(self.subset.names, self.subset.shapes, self.subset.sizes, strict=True):
            acting = [
                (place, index) for index, group in enumerate(self.groups) for place in group.axes if place.name == name
            ]
            if acting:
                dims = [dim for axis in range(len(shape)) for dim in self._split(name, axis, shape[axis])]
                lengths, groups = zip(*dims, strict=True)
                found.append(UnitTensor(slice(start, start + size), lengths, groups))
            start += size
        return tuple(found)

    def _split(self, name: str, axis: int, length: int) -> list[tuple[int, int | None]]:
        """Return the dimensions (length, group or None) into which the groups split one axis of a parameter."""
        acting = [
            (place.outer, index, place.inner)
            for index, group in enumerate(self.groups)
            for place in group.axes
            if (place.name, place.axis) == (name, axis)
        ]
        dims: list[tuple[int, int | None]] = []
        before = 1  # the product of the dimensions so far
        for outer, index, inner in sorted(acting):
            size = self.groups[index].size
            if outer * size * inner != length or outer % before:
                raise ValueError(
                    f"group {index} of {size} units does not fit axis {axis} of {name}, of length {length}"
                )
            dims += [(outer // before, None), (size, index)]
            before = outer * size
        return [dim for dim in [*dims, (length // before, None)] if dim[0] > 1 or dim[1] is not None] or [(1, None)]

    def find_order(self, permutations: Sequence[np.ndarray]) -> np.ndarray:
        """Return the order (D,), int64, such that `vector_D[order_D]` is the vector with permuted units.

        Place i of a group gets the unit `permutation[i]`.
        """
        order_D = np.arange(self.subset.num_params)
        for tensor in self.tensors:
            places = order_D[tensor.columns].reshape(tensor.shape)
            order_D[tensor.columns] = tensor.permute(places, permutations).reshape(-1)
        return order_D

    def permute(self, vector_D: np.ndarray, permutations: Sequence[np.ndarray]) -> np.ndarray:
        """Return the vector (D,) with permuted units, which has the same function; see `find_order`."""
        return vector_D[self.find_order(permutations)]

    def draw_permutations(self, generator: torch.Generator) -> Permutations:
        """Return a uniformly random permutation of each group."""
        return tuple(torch.randperm(group.size, generator=generator).numpy() for group in self.groups)
