"""Groups of exchangeable units: the order of a vector, the function of a network, groups that do not fit."""

import numpy as np
import pytest
import torch
from torch import nn

from core.checkpoints.subset import ParameterSubset, flatten, resolve_subset, unflatten
from core.checkpoints.symmetry import PermutationSymmetry, UnitAxis, UnitGroup
from tests.core.tiny import randomize

FIRST = UnitGroup(8, tuple(UnitAxis(name, 0) for name in ("0.weight", "0.bias", "1.weight", "1.bias")) + tuple(
    UnitAxis(f"1.running_{name}", 0) for name in ("mean", "var")) + (UnitAxis("3.weight", 1),))  # fmt: skip
SECOND = UnitGroup(5, (UnitAxis("3.weight", 0), UnitAxis("3.bias", 0), UnitAxis("5.weight", 1)))


def make_network(seed=0):
    torch.manual_seed(seed)
    return randomize(
        nn.Sequential(
            nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3)
        ).double()
    )


def change_logits(network, symmetry, permutations):
    """Return the largest change of the logits under a permutation of the units."""
    vector_D = flatten(network, symmetry.subset).double()
    permuted_D = torch.from_numpy(symmetry.permute(vector_D.numpy(), permutations))
    assert not torch.equal(vector_D, permuted_D) and torch.equal(vector_D.sort()[0], permuted_D.sort()[0])
    inputs = torch.randn(4, 6, dtype=torch.float64)
    logits = [
        torch.func.functional_call(network, unflatten(each, symmetry.subset), inputs) for each in (vector_D, permuted_D)
    ]
    return float((logits[0] - logits[1]).abs().max())


def draw(symmetry, seed=0):
    return symmetry.draw_permutations(torch.Generator().manual_seed(seed))


def test_permuted_units_have_the_same_function():
    network = make_network()
    symmetry = PermutationSymmetry.within(resolve_subset(network, "all"), [FIRST, SECOND])
    assert change_logits(network, symmetry, draw(symmetry)) < 1e-12


@pytest.mark.parametrize("missing", range(len(FIRST.axes)))
def test_an_axis_that_is_left_out_changes_the_function(missing):
    network = make_network()
    axes = tuple(axis for index, axis in enumerate(FIRST.axes) if index != missing)
    symmetry = PermutationSymmetry.within(resolve_subset(network, "all"), [UnitGroup(8, axes), SECOND])
    assert change_logits(network, symmetry, draw(symmetry)) > 1e-3


def test_a_group_partly_outside_the_subset_is_dropped():
    subset = resolve_subset(make_network(), ["3.*", "5.*"])
    assert PermutationSymmetry.within(subset, [FIRST, SECOND]).groups == (SECOND,)


def test_place_i_gets_the_unit_that_the_permutation_names():
    # An axis of 2 · 3 · 2 numbers, of which the 3 in the middle are permuted, and a group of its own for the inner 2.
    subset = ParameterSubset(("bias", "qkv"), ((1,), (12,)))
    heads = UnitGroup(3, (UnitAxis("qkv", 0, outer=2, inner=2),))
    features = UnitGroup(2, (UnitAxis("qkv", 0, outer=6),))
    vector_D = np.array([-1, *range(12)])
    symmetry = PermutationSymmetry(subset, (heads,))
    moved = [-1, 4, 5, 0, 1, 2, 3, 10, 11, 6, 7, 8, 9]
    assert symmetry.permute(vector_D, [np.array([2, 0, 1])]).tolist() == moved
    both = PermutationSymmetry(subset, (features, heads))
    swapped = [-1, 5, 4, 1, 0, 3, 2, 11, 10, 7, 6, 9, 8]
    assert both.permute(vector_D, [np.array([1, 0]), np.array([2, 0, 1])]).tolist() == swapped


@pytest.mark.parametrize("group", [
    UnitGroup(8, (UnitAxis("3.weight", 0),)),  # the axis has length 5
    UnitGroup(2, (UnitAxis("3.weight", 1, outer=2),)),  # 2 · 2 of 8
])  # fmt: skip
def test_a_group_that_does_not_fit_its_parameter_is_refused(group):
    with pytest.raises(ValueError, match=r"3\.weight"):
        PermutationSymmetry.within(resolve_subset(make_network(), "all"), [group])


def test_two_groups_with_the_same_units_are_refused():
    with pytest.raises(ValueError, match=r"3\.weight"):
        PermutationSymmetry.within(resolve_subset(make_network(), "all"), [SECOND, SECOND])


def test_random_permutations_come_from_the_generator():
    symmetry = PermutationSymmetry.within(resolve_subset(make_network(), "all"), [FIRST, SECOND])
    first, again, other = draw(symmetry), draw(symmetry), draw(symmetry, seed=1)
    assert all(map(np.array_equal, first, again)) and not all(map(np.array_equal, first, other))
    assert [sorted(each) for each in first] == [list(range(8)), list(range(5))]
