"""Tensor axes as products of factors: which positions along the axes of different tensors belong together.

A factor is a number of positions that are permuted together wherever the factor occurs. An axis of 3 · 4 · 8 features
of queries, keys and values has three factors, from the outermost to the innermost. An axis of length 1 has none.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass(eq=False)
class Factor:
    """A number of positions, in a forest of equal factors (union-find).

    A factor that turns out to be a product is replaced by its `parts` in all places.
    """

    size: int
    frozen: bool = False  # whether its positions cannot be permuted
    same_as: "Factor | None" = None
    parts: "list[Factor]" = field(default_factory=list)

    def find(self) -> "Factor":
        """Return the factor that represents all equal ones."""
        root = self
        while root.same_as is not None:
            root = root.same_as
        return root


Axis = list[Factor]  # the factors of one axis, from the outermost to the innermost


def new_axis(size: int, *, frozen: bool = False) -> Axis:
    """Return an axis whose positions belong to nothing else yet."""
    return [Factor(size, frozen)] if size > 1 else []


def expand(axis: Iterable[Factor]) -> Axis:
    """Return the factors of an axis as they are now: representatives without parts."""
    found: Axis = []
    for factor in axis:
        root = factor.find()
        found += expand(root.parts) if root.parts else [root]
    return found


def count(axis: Iterable[Factor]) -> int:
    """Return the length of an axis."""
    return math.prod(factor.size for factor in axis)


def freeze(axis: Iterable[Factor]) -> None:
    """Forbid all permutations along an axis."""
    for factor in expand(axis):
        factor.frozen = True


def split(factor: Factor, outer: int) -> Axis:
    """Replace a factor by two, of which the first has size `outer`, and return both.

    Fewer permutations remain: those of whole blocks, and the same permutation within each block.
    """
    factor.parts = [Factor(outer, factor.frozen), Factor(factor.size // outer, factor.frozen)]
    return factor.parts


def unify(first: Axis, second: Axis) -> None:
    """Make two axes of the same length equal, so that they are permuted together.

    Where their factors do not fit, such as 2 · 3 and 3 · 2, both are frozen.
    """
    ours, theirs = expand(first), expand(second)
    while ours and theirs:
        one, other = ours[0], theirs[0]
        if one.size > other.size and one.size % other.size == 0:
            ours[:1] = split(one, other.size)
        elif other.size > one.size and other.size % one.size == 0:
            theirs[:1] = split(other, one.size)
        elif one.size == other.size:
            del ours[0], theirs[0]
            if one is not other:
                other.same_as = one
                one.frozen |= other.frozen
        else:
            break
        # A split or a union may concern a factor that occurs again further inside.
        ours, theirs = expand(ours), expand(theirs)
    freeze([*ours, *theirs])


def regroup(axes: Sequence[Axis], shape: Sequence[int]) -> list[Axis]:
    """Return the axes of a tensor that is reshaped to `shape`, which reads the same numbers in the same order.

    Where the factors do not fit the new axes, all are frozen.
    """
    rest = expand(factor for axis in axes for factor in axis)
    found: list[Axis] = []
    for size in shape:
        axis: Axis = []
        while (missing := size // count(axis)) > 1 and rest:
            if missing % rest[0].size == 0:
                axis.append(rest.pop(0))
            elif rest[0].size % missing == 0:
                rest[:1] = split(rest[0], missing)
                rest = expand(rest)
            else:
                break
        found.append(axis)
    if [count(axis) for axis in found] == list(shape):
        return found
    for axis in axes:
        freeze(axis)
    return [new_axis(size, frozen=True) for size in shape]
