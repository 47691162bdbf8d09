"""The autocorrelation of series whose autocorrelation is known."""

import numpy as np
import pytest

from core.evaluation.walk import autocorrelation_time, choose_block_length, is_walk, measure_autocorrelation


def draw_series(k, d=20, coefficient=0.0, seed=0):
    """Draw an autoregressive series of order 1 (K, D) from its stationary distribution."""
    random = np.random.default_rng(seed)
    rows = [random.normal(size=d)]
    for _ in range(k - 1):
        rows.append(coefficient * rows[-1] + np.sqrt(1 - coefficient**2) * random.normal(size=d))
    return np.array(rows)


def test_the_autocorrelation_of_three_numbers():
    # The deviations from the mean 2 are −1, 0 and 1, with the squared sum 2.
    assert measure_autocorrelation(np.array([[1.0], [2.0], [3.0]])).tolist() == [1, 0, -0.5]


@pytest.mark.parametrize("coefficient, expected", [(0.0, 1), (0.5, 3), (0.8, 9), (0.9, 19)])
def test_the_time_of_an_autoregressive_series(coefficient, expected):
    assert autocorrelation_time(draw_series(3000, coefficient=coefficient)) == pytest.approx(expected, rel=0.12)


def test_the_time_follows_the_order_of_the_rows():
    walk_KD = draw_series(300, coefficient=0.9)
    assert autocorrelation_time(np.random.default_rng(1).permutation(walk_KD)) <= 2 < autocorrelation_time(walk_KD)


def test_the_time_of_a_drift_is_a_share_of_the_rows():
    assert [autocorrelation_time(np.arange(float(k))[:, None]) for k in (20, 100, 200)] == [7, 35, 70]


@pytest.mark.parametrize("values_KD", [np.ones((5, 3)), np.ones((1, 3)), np.array([[0.0], [1.0]])])
def test_equal_or_few_rows_have_the_least_time(values_KD):
    with np.errstate(all="raise"):
        assert autocorrelation_time(values_KD) == choose_block_length(values_KD) == 1
        assert not is_walk(values_KD)


def test_only_an_autocorrelated_series_is_a_walk():
    assert is_walk(draw_series(200, coefficient=0.9))
    assert is_walk(draw_series(200, d=1, coefficient=0.9))
    found = [is_walk(draw_series(50, d=1, seed=seed)) for seed in range(100)]
    assert sum(found) <= 7, "one number is autocorrelated by chance in a few percent of all series"
    assert not any(is_walk(draw_series(50, seed=seed)) for seed in range(100))


def test_the_block_length_of_an_autoregressive_series():
    k, coefficient = 3000, 0.8
    best = (1.5 * k) ** (1 / 3) * (2 * coefficient / (1 - coefficient**2)) ** (2 / 3)
    assert choose_block_length(draw_series(k, coefficient=coefficient)) == pytest.approx(best, rel=0.12)
    assert choose_block_length(draw_series(k)) == 1


def test_at_least_three_blocks_are_drawn():
    assert choose_block_length(np.arange(30.0)[:, None]) == 10
