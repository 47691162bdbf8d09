"""Weight matching: planted permutations, the best permutation of small groups, independence of the stored order."""

from itertools import permutations

import numpy as np
import pytest

from core.checkpoints.matching import align, match
from core.checkpoints.subset import ParameterSubset, flatten, resolve_subset
from core.checkpoints.symmetry import PermutationSymmetry, UnitAxis, UnitGroup
from tests.core.checkpoints.test_symmetry import FIRST, SECOND, draw, make_network


@pytest.fixture
def symmetry():
    return PermutationSymmetry.within(resolve_subset(make_network(), "all"), [FIRST, SECOND])


def make_vector(symmetry, seed):
    return flatten(make_network(seed), symmetry.subset).double().numpy()


@pytest.mark.parametrize("seed", range(5))
def test_a_planted_permutation_is_found(symmetry, seed):
    vector_D = make_vector(symmetry, seed)
    noise_D = 0.02 * np.random.default_rng(seed).standard_normal(len(vector_D))
    permuted_D = symmetry.permute(vector_D, draw(symmetry, seed)) + noise_D
    found = match(symmetry, permuted_D, vector_D)
    order_D = symmetry.find_order(draw(symmetry, seed))[symmetry.find_order(found)]
    assert np.array_equal(order_D, np.arange(len(vector_D)))


def test_the_result_does_not_depend_on_the_stored_order(symmetry):
    vector_D, reference_D = make_vector(symmetry, 0), make_vector(symmetry, 1)
    expected_D = align(symmetry, vector_D, reference_D)
    for seed in range(5):
        permuted_D = symmetry.permute(vector_D, draw(symmetry, seed))
        assert np.array_equal(align(symmetry, permuted_D, reference_D), expected_D)


@pytest.mark.parametrize("seed", range(5))
def test_no_other_permutation_of_one_group_is_nearer(symmetry, seed):
    reference_D = make_vector(symmetry, 10)
    found = match(symmetry, make_vector(symmetry, seed), reference_D)
    vector_D = make_vector(symmetry, seed)
    best = np.linalg.norm(symmetry.permute(vector_D, found) - reference_D)
    others = [
        np.linalg.norm(symmetry.permute(vector_D, [found[0], np.array(other)]) - reference_D)
        for other in permutations(range(5))
    ]
    assert best == pytest.approx(min(others), abs=1e-12) and len(set(np.round(others, 9))) > 100
    assert best < np.linalg.norm(vector_D - reference_D)


def test_a_matrix_with_the_same_units_on_both_axes_is_matched():
    subset = ParameterSubset(("weight", "bias"), ((7, 7), (7,)))
    square = UnitGroup(7, (UnitAxis("weight", 0), UnitAxis("weight", 1), UnitAxis("bias", 0)))
    symmetry = PermutationSymmetry(subset, (square,))
    rng = np.random.default_rng(0)
    vector_D, other_D = rng.standard_normal((2, 56))
    permuted_D = symmetry.permute(vector_D, draw(symmetry))
    assert np.array_equal(align(symmetry, permuted_D, vector_D), vector_D)
    found = align(symmetry, other_D, vector_D)
    assert np.linalg.norm(found - vector_D) < np.linalg.norm(other_D - vector_D)


def test_a_vector_equals_itself(symmetry):
    vector_D = make_vector(symmetry, 0)
    assert all(np.array_equal(each, np.arange(len(each))) for each in match(symmetry, vector_D, vector_D))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_vector_that_is_not_finite_keeps_its_order(symmetry, value):
    vector_D = make_vector(symmetry, 0)
    vector_D[3] = value
    np.testing.assert_array_equal(align(symmetry, vector_D, make_vector(symmetry, 1)), vector_D)


def test_the_type_of_the_numbers_is_kept(symmetry):
    vector_D = make_vector(symmetry, 0).astype(np.float32)
    aligned_D = align(symmetry, vector_D, make_vector(symmetry, 1))
    assert aligned_D.dtype == np.float32
    np.testing.assert_array_equal(np.sort(aligned_D), np.sort(vector_D))
