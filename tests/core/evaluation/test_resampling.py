"""Bootstrap samples: plain, in blocks and in groups."""

import numpy as np
import pytest

from core.evaluation import resampling
from core.evaluation.resampling import Groups, draw_counts, draw_means, draw_sums


@pytest.fixture
def random():
    return np.random.default_rng(0)


def test_counts_follow_drawing_with_replacement(random):
    counts = draw_counts(10, 20_000, random)
    assert (counts.sum(axis=1) == 10).all()
    covariance = np.cov(counts.T)  # multinomial: variance n p (1 − p), covariance −n p²
    np.testing.assert_allclose(counts.mean(axis=0), np.ones(10), atol=0.03)
    np.testing.assert_allclose(np.diag(covariance), np.full(10, 0.9), atol=0.05)
    np.testing.assert_allclose(covariance[np.triu_indices(10, 1)], np.full(45, -0.1), atol=0.04)


def test_blocks_are_runs_on_a_circle_and_the_last_one_is_cut(random):
    counts = draw_counts(10, 20_000, random, block_length=4)
    assert (counts.sum(axis=1) == 10).all()
    np.testing.assert_allclose(counts.mean(axis=0), np.ones(10), atol=0.03)
    covariance = np.cov(counts.T)  # Each unit is in a block of 4 with probability 4/10, and in the cut one with 2/10.
    expected = [2 * max(4 - lag, 0) / 10 + max(2 - lag, 0) / 10 - (2 * 16 + 4) / 100 for lag in range(5)]
    for shift in range(10):
        np.testing.assert_allclose([covariance[shift, (shift + lag) % 10] for lag in range(5)], expected, atol=0.04)


def test_one_block_as_long_as_the_walk_draws_every_unit_once(random):
    assert (draw_counts(7, 50, random, block_length=7) == 1).all()


@pytest.mark.parametrize("entries", [1, 33, 10_000])
def test_sums_are_products_with_counts_for_any_size_of_parts(random, entries, monkeypatch):
    values_SG = random.normal(size=(3, 12))
    monkeypatch.setattr(resampling, "ENTRIES", entries)
    counts = draw_counts(12, 40, np.random.default_rng(5), block_length=5)
    np.testing.assert_allclose(draw_sums(values_SG, 40, seed=5, block_length=5), counts @ values_SG.T, atol=1e-12)


def test_means_are_divided_by_the_number_of_drawn_items():
    sizes_G = np.array([1, 5, 2])
    means_RS = draw_means(np.stack([3.0 * sizes_G, np.array([0, 5, 0])]), sizes_G, 500, seed=1)
    assert (means_RS[:, 0] == 3).all(), "a constant has no spread"
    counts = draw_counts(3, 500, np.random.default_rng(1))
    np.testing.assert_allclose(means_RS[:, 1], counts[:, 1] * 5 / (counts @ sizes_G))


@pytest.mark.parametrize("most_items", [1, 3, 4, 100])
def test_groups_are_summed_in_the_order_of_their_numbers(random, most_items):
    groups_N = np.array([7, 2, 7, 9, 2, 7])
    groups, values_SN = Groups.index(6, groups_N), random.normal(size=(2, 6))
    expected = np.stack([values_SN[:, groups_N == number].sum(axis=1) for number in (2, 7, 9)], axis=1)
    assert groups.sizes_G.tolist() == [2, 3, 1]
    np.testing.assert_allclose(groups.sum(values_SN), expected)
    parts = list(groups.split(most_items))
    assert sum(map(len, parts)) == 3 and (len(parts) == 1) == (most_items == 100)
    np.testing.assert_allclose(np.concatenate([part.sum(values_SN) for part in parts], axis=1), expected)


def test_masks_are_counted():
    masks = np.array([[True, True, False, True]])
    assert Groups.index(4, np.array([0, 0, 1, 1])).sum(masks).tolist() == [[2, 1]]
    assert Groups.index(4).sum(masks).tolist() == [[1, 1, 0, 1]]
