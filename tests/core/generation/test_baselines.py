"""The baselines against closed forms; none changes the checkpoints or shares memory with them."""

import numpy as np
import pytest
import torch

from core.checkpoints.subset import ParameterSubset
from core.generation import baselines
from core.runtime.seeding import generator_for

SUBSET = ParameterSubset(("a", "b", "c"), ((4,), (2, 2), (2,)))  # D = 10
WITH_STATISTICS = ParameterSubset(("bn.weight", "bn.running_mean", "bn.running_var"), ((2,), (2,), (2,)))

MAKE = {
    "ensemble": lambda vectors_KD, generator: baselines.ensemble(vectors_KD),
    "noised": lambda vectors_KD, generator: baselines.noised(
        vectors_KD, SUBSET, 0.1, num_models=20, generator=generator
    ),
    "noised_0": lambda vectors_KD, generator: baselines.noised(
        vectors_KD, SUBSET, 0.0, num_models=8, generator=generator
    ),
    "average_1": lambda vectors_KD, generator: baselines.average(vectors_KD, 1, num_models=20, generator=generator),
    "average_3": lambda vectors_KD, generator: baselines.average(vectors_KD, 3, num_models=20, generator=generator),
    "interpolated": lambda vectors_KD, generator: baselines.interpolated(vectors_KD, 20, generator),
    "gaussian": lambda vectors_KD, generator: baselines.gaussian(vectors_KD, 20, generator),
    "gaussian_full": lambda vectors_KD, generator: baselines.gaussian_full(vectors_KD, 20, generator),
    "swag": lambda vectors_KD, generator: baselines.swag(vectors_KD, 20, generator),
    "ema": lambda vectors_KD, generator: baselines.ema(vectors_KD),
    "lawa": lambda vectors_KD, generator: baselines.lawa(vectors_KD),
}
ONE_MODEL = ("ensemble", "ema", "lawa")


@pytest.fixture
def generator():
    return generator_for(0, "test")


@pytest.fixture
def vectors_KD():
    """Return correlated checkpoints whose means and sizes differ between the parameter tensors."""
    mixing = torch.randn(10, 10) * torch.tensor([1.0] * 4 + [0.1] * 4 + [5.0] * 2)
    return torch.randn(8, 10) @ mixing + torch.arange(10.0)


@pytest.mark.parametrize("name", MAKE)
def test_no_baseline_changes_the_checkpoints_or_shares_memory_with_them(vectors_KD, generator, name):
    before = vectors_KD.clone()
    made = MAKE[name](vectors_KD, generator)
    assert torch.equal(vectors_KD, before)
    made.fill_(-1)
    assert torch.equal(vectors_KD, before)


@pytest.mark.parametrize("name", MAKE)
def test_a_baseline_depends_only_on_its_random_generator(vectors_KD, name):
    first = MAKE[name](vectors_KD, generator_for(0, "test"))
    torch.rand(1000)
    assert torch.equal(MAKE[name](vectors_KD, generator_for(0, "test")), first)
    if name not in ONE_MODEL:
        assert not torch.equal(MAKE[name](vectors_KD, generator_for(1, "test")), first)


def test_the_ensemble_is_the_mean_as_one_model(vectors_KD):
    torch.testing.assert_close(baselines.ensemble(vectors_KD), vectors_KD.sum(dim=0)[None] / 8)


@pytest.mark.parametrize("num_models", [1, 5, 8, 11, 24])
def test_each_checkpoint_is_chosen_once_before_any_is_chosen_twice(generator, num_models):
    rows = baselines.choose(8, num_models, generator)
    counts = torch.bincount(rows, minlength=8)
    assert len(rows) == num_models and counts.max() - counts.min() <= 1


def test_without_noise_the_models_are_checkpoints(vectors_KD, generator):
    made = baselines.noised(vectors_KD, SUBSET, 0.0, num_models=8, generator=generator)
    assert sorted(made[:, 0].tolist()) == sorted(vectors_KD[:, 0].tolist())
    assert all((vectors_KD == vector_D).all(dim=1).any() for vector_D in made)


def test_noise_is_relative_to_the_std_of_each_tensor_of_its_checkpoint(generator):
    sizes = torch.tensor([[1.0, 0.1, 10.0], [2.0, 0.0, 3.0]])  # shape (checkpoint, tensor)
    subset = ParameterSubset(("a", "b", "c"), ((2000,), (2000,), (2000,)))
    pattern = torch.tensor([1.0, -1.0]).repeat(1000)  # std 1, mean 0
    vectors_KD = torch.cat([size * pattern + 100 for size in sizes.T[:, :, None]], dim=1)
    made = baselines.noised(vectors_KD, subset, 0.05, num_models=2, generator=generator)
    order = [(vectors_KD - vector_D).norm(dim=1).argmin().item() for vector_D in made]
    added = (made - vectors_KD[order]).view(2, 3, 2000)
    torch.testing.assert_close(added.std(dim=2), 0.05 * sizes[order], rtol=0.06, atol=1e-6)
    torch.testing.assert_close(added.mean(dim=2), torch.zeros(2, 3), rtol=0, atol=0.05)


@pytest.mark.parametrize("group_size", [1, 3, 8])
def test_an_average_is_the_mean_of_that_many_different_checkpoints(generator, group_size):
    made = baselines.average(torch.eye(8), group_size, num_models=50, generator=generator)  # row i is checkpoint i
    chosen = made > 0
    assert made.shape == (50, 8) and (chosen.sum(dim=1) == group_size).all()
    torch.testing.assert_close(made[chosen], torch.full((50 * group_size,), 1 / group_size))
    assert chosen.any(dim=0).all()
    assert len(chosen.unique(dim=0)) > 1 or group_size == 8


def test_no_average_changes_the_next_one(vectors_KD, generator):
    many = baselines.average(vectors_KD, 8, num_models=5, generator=generator)  # every group holds all checkpoints
    torch.testing.assert_close(many, vectors_KD.mean(dim=0).expand(5, -1))


def test_an_interpolation_lies_anywhere_between_two_different_checkpoints(generator):
    made = baselines.interpolated(torch.eye(8), 400, generator)
    torch.testing.assert_close(made.sum(dim=1), torch.ones(400))
    assert (made >= 0).all() and ((made > 0).sum(dim=1) == 2).all()
    counts = torch.histc(made.max(dim=1).values, bins=5, min=0.5, max=1)
    assert (counts > 40).all() and len((made > 0).unique(dim=0)) == 8 * 7 / 2


def test_the_diagonal_gaussian_has_the_means_and_variances_of_the_checkpoints_and_no_correlation(vectors_KD, generator):
    made = baselines.gaussian(vectors_KD, 20_000, generator)
    expected = np.diag(np.cov(vectors_KD.numpy().T))
    assert abs(np.corrcoef(vectors_KD.numpy().T) - np.eye(10)).max() > 0.5  # the correlation that must get lost
    np.testing.assert_allclose(made.mean(dim=0), vectors_KD.mean(dim=0), atol=0.05 * expected.max() ** 0.5)
    np.testing.assert_allclose(made.var(dim=0), expected, rtol=0.06)
    np.testing.assert_allclose(np.corrcoef(made.numpy().T), np.eye(10), atol=0.04)


def test_the_full_gaussian_has_the_mean_and_covariance_of_the_checkpoints(vectors_KD, generator):
    made = baselines.gaussian_full(vectors_KD, 40_000, generator)
    expected = np.cov(vectors_KD.numpy().T)
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    np.testing.assert_allclose((np.cov(made.numpy().T) - expected) / scale, np.zeros((10, 10)), atol=0.04)
    np.testing.assert_allclose(
        (made.mean(dim=0) - vectors_KD.mean(dim=0)) / np.sqrt(np.diag(expected)), np.zeros(10), atol=0.04
    )


def test_the_full_gaussian_stays_in_the_span_of_the_checkpoints(generator):
    """Draws from K = 4 checkpoints differ from their mean along K − 1 = 3 directions only."""
    vectors_KD = torch.randn(4, 10)
    centered = baselines.gaussian_full(vectors_KD, 50, generator) - vectors_KD.mean(dim=0)
    assert torch.linalg.matrix_rank(centered, rtol=1e-4) == 3
    assert torch.linalg.matrix_rank(torch.cat([centered, vectors_KD - vectors_KD.mean(dim=0)]), rtol=1e-4) == 3


def test_swag_has_half_of_each_variance_and_half_of_the_covariance_of_the_last_twenty_checkpoints(generator):
    vectors_KD = torch.randn(30, 4) @ torch.randn(4, 4) + torch.arange(4.0)
    made = baselines.swag(vectors_KD, 60_000, generator)
    deviations_KD = (vectors_KD - vectors_KD.mean(dim=0))[-20:].double().numpy()
    expected = 0.5 * np.diag(vectors_KD.var(dim=0)) + 0.5 * deviations_KD.T @ deviations_KD / 19
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    np.testing.assert_allclose((np.cov(made.numpy().T) - expected) / scale, np.zeros((4, 4)), atol=0.03)
    np.testing.assert_allclose(
        (made.mean(dim=0) - vectors_KD.mean(dim=0)) / np.sqrt(np.diag(expected)), np.zeros(4), atol=0.02
    )


@pytest.mark.parametrize("count, decay", [(200, 0.95), (1000, 0.99), (3, 0.5)])
def test_the_moving_average_weights_late_checkpoints_most(count, decay):
    vectors_KD = torch.randn(count, 5)
    expected = vectors_KD[0]
    for vector_D in vectors_KD[1:]:
        expected = decay * expected + (1 - decay) * vector_D
    torch.testing.assert_close(baselines.ema(vectors_KD), expected[None], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("count, latest", [(200, 20), (12, 2), (2, 2)])
def test_lawa_is_the_mean_of_the_latest_tenth_but_of_at_least_two(count, latest):
    made = baselines.lawa(torch.eye(count))
    assert made.shape == (1, count) and (made[0, -latest:] == 1 / latest).all() and not made[0, :-latest].any()


def test_only_running_variances_are_drawn_in_log_space():
    log_map = baselines.make_log_map(WITH_STATISTICS)
    vectors_KD = torch.tensor([[-1.0, 1.0, -1.0, 1.0, 1.0, 100.0]])
    torch.testing.assert_close(log_map.normalize(vectors_KD)[0, 4:].exp(), vectors_KD[0, 4:])
    assert torch.equal(log_map.normalize(vectors_KD)[:, :4], vectors_KD[:, :4])
    torch.testing.assert_close(log_map.unnormalize(log_map.normalize(vectors_KD)), vectors_KD)
    plain_KD = torch.randn(4, 10)  # without running variances, not a bit changes
    assert torch.equal(baselines.make_log_map(SUBSET).normalize(plain_KD), plain_KD)


@pytest.mark.parametrize("name", ["gaussian", "gaussian_full", "swag"])
def test_a_coordinate_that_does_not_vary_is_kept(vectors_KD, generator, name):
    vectors_KD[:, 3] = 7.0
    torch.testing.assert_close(MAKE[name](vectors_KD, generator)[:, 3], torch.full((20,), 7.0))


def test_only_negative_running_variances_are_set_to_zero():
    vectors_MD = torch.tensor([[-1.0, 1.0, -1.0, 1.0, -1.0, 1.0]])
    assert baselines.clamp_variances(vectors_MD, WITH_STATISTICS).tolist() == [[-1.0, 1.0, -1.0, 1.0, 0.0, 1.0]]
    assert vectors_MD[0, 4] == -1, "the given vectors were changed"
