"""Distances after matching: permuted copies are found, independent networks are no copies."""

import numpy as np
import pytest

from core.checkpoints.subset import ParameterSubset
from core.checkpoints.symmetry import PermutationSymmetry, UnitAxis, UnitGroup
from core.evaluation.audit import measure_copying
from core.evaluation.copying import Behavior
from core.evaluation.kinds import GENERATED, ORIGINAL
from core.evaluation.matched_distances import measure_matched_l2
from core.evaluation.metrics import l2_matrix, pair_with_others
from core.evaluation.scores import Scores, ScoreTable
from core.evaluation.yardstick import Origins, pair_originals
from tests.core.checkpoints.test_symmetry import draw

SUBSET = ParameterSubset(
    ("1.weight", "1.bias", "2.weight", "2.bias", "3.weight"), ((12, 20), (12,), (6, 12), (6,), (4, 6))
)
SYMMETRY = PermutationSymmetry(
    SUBSET,
    (
        UnitGroup(12, (UnitAxis("1.weight", 0), UnitAxis("1.bias", 0), UnitAxis("2.weight", 1))),
        UnitGroup(6, (UnitAxis("2.weight", 0), UnitAxis("2.bias", 0), UnitAxis("3.weight", 1))),
    ),
)


@pytest.fixture
def originals_KD():
    return np.random.default_rng(0).standard_normal((9, SUBSET.num_params)).astype(np.float32)


def permute_all(vectors_MD, seed):
    return np.stack([
        SYMMETRY.permute(vector_D, draw(SYMMETRY, seed + index)) for index, vector_D in enumerate(vectors_MD)
    ])  # fmt: skip


@pytest.mark.parametrize("noise", [0, 0.01])
def test_permuted_copies_lie_at_their_originals(originals_KD, noise):
    models_MD = permute_all(originals_KD, seed=5)
    models_MD = models_MD + noise * np.random.default_rng(1).standard_normal(models_MD.shape)
    assert l2_matrix(models_MD, originals_KD).min() > 10
    distance_MK = measure_matched_l2(SYMMETRY, models_MD, originals_KD, nearest=3)
    np.testing.assert_allclose(distance_MK.diagonal(), noise * np.sqrt(SUBSET.num_params), rtol=0.15, atol=1e-12)
    assert distance_MK[pair_with_others(9)].min() > 10


def test_independent_networks_are_no_copies(originals_KD):
    models_MD = np.random.default_rng(2).standard_normal((8, SUBSET.num_params))
    distance_MK = measure_matched_l2(SYMMETRY, models_MD, originals_KD)
    honest_KK = measure_matched_l2(SYMMETRY, originals_KD, originals_KD, apart_MK=pair_with_others(9))
    ratio = np.median(distance_MK) / np.median(honest_KK[pair_with_others(9)])
    assert (distance_MK.min(axis=1) / np.median(distance_MK, axis=1)).min() > 0.8
    assert ratio == pytest.approx(1, abs=0.05) and honest_KK.diagonal().max() == 0


def test_the_distances_are_never_larger_than_without_matching(originals_KD):
    models_MD = np.random.default_rng(2).standard_normal((4, SUBSET.num_params))
    distance_MK = measure_matched_l2(SYMMETRY, models_MD, originals_KD)
    assert (distance_MK < l2_matrix(models_MD, originals_KD)).all()


def test_neither_the_stored_order_of_a_model_nor_the_other_models_matter(originals_KD):
    models_MD = np.random.default_rng(2).standard_normal((4, SUBSET.num_params))
    expected_MK = measure_matched_l2(SYMMETRY, models_MD, originals_KD)
    permuted_MK = measure_matched_l2(SYMMETRY, permute_all(models_MD, seed=3)[:2], originals_KD)
    np.testing.assert_allclose(permuted_MK, expected_MK[:2], rtol=1e-12)


def test_more_direct_matches_come_nearer(originals_KD):
    models_MD = np.random.default_rng(2).standard_normal((4, SUBSET.num_params))
    few, many = (measure_matched_l2(SYMMETRY, models_MD, originals_KD, nearest=nearest) for nearest in (2, 9))
    changed = few > many
    assert (many <= few).all() and changed.any(axis=1).all() and (~changed).sum(axis=1).min() >= 2


def test_pairs_that_do_not_count_are_not_matched_directly(originals_KD):
    apart_KK = pair_with_others(9)
    distance_KK = measure_matched_l2(SYMMETRY, originals_KD, originals_KD, nearest=8, apart_MK=apart_KK)
    all_KK = measure_matched_l2(SYMMETRY, originals_KD, originals_KD, nearest=9)
    np.testing.assert_array_equal(distance_KK, all_KK)


def test_without_groups_the_distances_are_plain(originals_KD):
    symmetry = PermutationSymmetry(SUBSET, ())
    np.testing.assert_array_equal(
        measure_matched_l2(symmetry, originals_KD, originals_KD), l2_matrix(originals_KD, originals_KD)
    )


def test_a_model_that_is_not_finite_leaves_the_others_alone(originals_KD):
    models_MD = originals_KD.copy()
    models_MD[0, 0] = np.nan
    distance_MK = measure_matched_l2(SYMMETRY, models_MD, originals_KD)
    assert np.isnan(distance_MK[0]).all() and np.isfinite(distance_MK[1:]).all()


def make_table(source, vectors_MD):
    """Make the scores of a task without errors per item, so that copies can only be found in their weights."""
    scores = Scores(np.full(len(vectors_MD), 0.5), np.ones(len(vectors_MD)), None)
    return ScoreTable(source, vectors_MD.astype(np.float32), {"test": scores}, "id", 0.0)


@pytest.mark.parametrize("symmetry, copies", [(None, 0.0), (SYMMETRY, 1.0)])
def test_the_audit_finds_copies_whose_units_were_permuted(symmetry, copies):
    random = np.random.default_rng(3)
    originals_KD, new_MD = (
        random.standard_normal((30, SUBSET.num_params)),
        random.standard_normal((20, SUBSET.num_params)),
    )
    copies_MD = permute_all(originals_KD[:20], seed=7) + 0.05 * random.standard_normal((20, SUBSET.num_params))
    origins = Origins(np.stack([np.arange(30), np.full(30, 9)], axis=1))
    partners, behaviors = pair_originals(originals_KD, origins), []
    for models_MD in (copies_MD, new_MD):
        tables = {ORIGINAL: make_table(ORIGINAL, originals_KD), GENERATED: make_table(GENERATED, models_MD)}
        _, closeness = measure_copying(tables, origins, partners, symmetry)
        behaviors.append(closeness[GENERATED].behavior)
        assert closeness[GENERATED].copies == (copies if models_MD is copies_MD else 0.0)
    assert behaviors == [Behavior.COPIES if symmetry else Behavior.SAMPLES, Behavior.SAMPLES]
