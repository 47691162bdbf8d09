"""Positions of models: distances are those of products, so that other factors of the same product are a copy."""

from dataclasses import replace

import numpy as np
import pytest

from core.checkpoints.low_rank import LowRankUpdate
from core.checkpoints.subset import ParameterSubset
from core.evaluation.audit import measure_copying
from core.evaluation.copying import Behavior
from core.evaluation.kinds import GENERATED, ORIGINAL
from core.evaluation.metrics import l2_matrix, pair_with_others
from core.evaluation.positions import locate_models
from core.evaluation.scores import ScoreTable
from core.evaluation.yardstick import Origins, pair_originals
from tests.core.evaluation.test_matched_distances import make_table

RANK = 2
SUBSET = ParameterSubset(
    ("1.A", "norm", "1.B", "2.A", "2.B"),
    ((RANK, 7), (5,), (9, RANK), (RANK, 3, 2, 2), (4, RANK, 1, 1)),
    (
        LowRankUpdate("1.weight", "1.base_layer.weight", "1.A", "1.B", 0.5),
        LowRankUpdate("2.weight", "2.base_layer.weight", "2.A", "2.B", 3.0),
    ),
)


def split(vector_D):
    parts = np.split(vector_D, np.cumsum(SUBSET.sizes)[:-1])
    return {name: part.reshape(shape) for name, part, shape in zip(SUBSET.names, parts, SUBSET.shapes, strict=True)}


def form_weights(vectors_MD):
    """Return all products of each model, and its plain parameters, as one vector."""
    rows = []
    for parts in map(split, vectors_MD.astype(np.float64)):
        products = [
            update.scale * parts[update.b].reshape(-1, RANK) @ parts[update.a].reshape(RANK, -1)
            for update in SUBSET.updates
        ]
        rows.append(np.concatenate([product.ravel() for product in [*products, parts["norm"]]]))
    return np.stack(rows)


def change_factors(vectors_MD, random):
    """Return models with the same products: B G and G⁻¹ A in place of B and A."""
    rows = []
    for parts in map(split, vectors_MD.astype(np.float64)):
        for a, b in (("1.A", "1.B"), ("2.A", "2.B")):
            change = random.standard_normal((RANK, RANK)) + 3 * np.eye(RANK)
            parts[a] = np.linalg.solve(change, parts[a].reshape(RANK, -1))
            parts[b] = parts[b].reshape(-1, RANK) @ change
        rows.append(np.concatenate([parts[name].ravel() for name in SUBSET.names]))
    return np.stack(rows)


def locate(**vectors):
    tables = {name: replace(make_table(name, vectors_MD), subset=SUBSET) for name, vectors_MD in vectors.items()}
    return {name: table.vectors_MD for name, table in locate_models(tables).items()}


@pytest.fixture
def random():
    return np.random.default_rng(0)


@pytest.fixture
def originals_KD(random):
    return random.standard_normal((6, SUBSET.num_params)).astype(np.float32)


def test_the_distances_are_those_of_the_weights(random, originals_KD):
    models_MD = random.standard_normal((40, SUBSET.num_params)).astype(np.float32)
    located = locate(original=originals_KD, p_diff=models_MD)
    original, models = (form_weights(vectors) for vectors in (originals_KD, models_MD))
    for ours, theirs in (("original", original), ("p_diff", models)):
        expected = l2_matrix(models, theirs)
        np.testing.assert_allclose(l2_matrix(located["p_diff"], located[ours]), expected, rtol=1e-9, atol=1e-6)
    # The mean of the originals is the mean of their products.
    norms_M = np.linalg.norm(models - original.mean(axis=0), axis=1)
    np.testing.assert_allclose(np.linalg.norm(located["p_diff"], axis=1), norms_M, rtol=1e-9)


def test_other_factors_of_the_same_products_have_distance_zero(random, originals_KD):
    changed = change_factors(originals_KD, random)
    assert l2_matrix(changed, originals_KD).diagonal().min() > 1
    located = locate(original=originals_KD, p_diff=changed)
    distance_KK = l2_matrix(located["p_diff"], located["original"])
    assert distance_KK.diagonal().max() < 1e-5 and distance_KK[pair_with_others(6)].min() > 1


def test_equal_originals_have_equal_positions(originals_KD):
    same = np.repeat(originals_KD[:1], 4, axis=0)
    assert (locate(original=same)["original"] == 0).all()


def test_diverged_models_cost_the_others_no_precision(random, originals_KD):
    near = originals_KD * (1 + 1e-3)
    far, broken = near.copy(), near.copy()
    far[0], broken[1, 3] = 1e15, np.nan
    expected = l2_matrix(form_weights(near), form_weights(originals_KD))
    located = locate(original=originals_KD, noised=np.concatenate([far, broken]), p_diff=near)
    np.testing.assert_allclose(l2_matrix(located["p_diff"], located["original"]), expected, rtol=1e-4)
    finite_M = np.isfinite(located["noised"]).all(axis=1)
    assert finite_M.sum() == 11 and not finite_M[7] and np.linalg.norm(located["noised"][0]) > 1e15


@pytest.mark.parametrize("products, copies", [(False, 0.0), (True, 1.0)])
def test_the_audit_finds_copies_with_other_factors(random, products, copies):
    originals_KD, new_MD = (random.standard_normal((count, SUBSET.num_params)) for count in (30, 20))
    copies_MD = change_factors(originals_KD[:20], random)
    origins = Origins(np.stack([np.arange(30), np.full(30, 9)], axis=1))
    for models_MD in (copies_MD, new_MD):
        tables = {ORIGINAL: make_table(ORIGINAL, originals_KD), GENERATED: make_table(GENERATED, models_MD)}
        if products:
            tables = locate_models({name: replace(table, subset=SUBSET) for name, table in tables.items()})
        partners = pair_originals(tables[ORIGINAL].vectors_MD, origins)
        _, closeness = measure_copying(tables, origins, partners)
        assert closeness[GENERATED].copies == (copies if models_MD is copies_MD else 0.0)
        if products:
            expected = Behavior.COPIES if models_MD is copies_MD else Behavior.SAMPLES
            assert closeness[GENERATED].behavior == expected


def test_plain_parameters_and_files_keep_what_they_are(originals_KD, tmp_path):
    plain = {ORIGINAL: make_table(ORIGINAL, originals_KD)}
    assert locate_models(plain) == plain and locate_models({}) == {}
    for subset in (None, SUBSET):
        replace(plain[ORIGINAL], subset=subset).save(tmp_path / "original.npz")
        assert ScoreTable.load(tmp_path / "original.npz").subset == subset
