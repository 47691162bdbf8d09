"""The reverse process, with denoisers for which the answer is known, through every configured sampler."""

import pytest
import torch
from hydra.utils import instantiate

from core.diffusion.objective import NoiseSchedule
from core.diffusion.sampling import denoise, standard_normal
from core.networks.denoiser import MLPDenoiser
from core.runtime.errors import UserError
from core.runtime.seeding import generator_for
from tests.core.tiny import SAMPLERS, randomize, sampler_recipe

T = 1000
DETERMINISTIC = ["ddim", "dpm_solver"]


def alphas_cumprod():
    return (1 - torch.linspace(1e-4, 0.02, T, dtype=torch.float64)).cumprod(0)


def sample(
    denoiser, sampler, *, latent_dim=3, indices=range(4), schedule=NoiseSchedule(T), num_steps=None, on_step=None
):
    recipe = sampler_recipe(sampler)
    generators = [generator_for(0, "test", index) for index in indices]
    steps = num_steps or recipe["num_steps"]
    x_BL = standard_normal(latent_dim, generators, torch.device("cpu"))
    return denoise(denoiser, schedule, instantiate(recipe["scheduler"]), steps, x_BL, generators, on_step)


def perfect_for_gaussian(mean_L, std):
    """ε* of data ~ N(mean, std²): the noise that is expected in x_t = √ᾱ x_0 + √(1−ᾱ) ε."""

    def denoiser(x_BL, t_B):
        alpha = alphas_cumprod()[t_B][:, None].to(x_BL.dtype)
        return (1 - alpha).sqrt() * (x_BL - alpha.sqrt() * mean_L) / (alpha * std**2 + 1 - alpha)

    return denoiser


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_data_that_is_one_point_is_sampled_as_that_point(sampler):
    point_L = torch.tensor([0.3, -2.0, 7.0])  # far outside the [-1, 1] to which image samplers clip
    samples = sample(perfect_for_gaussian(point_L, std=0), sampler)
    torch.testing.assert_close(samples, point_L.expand(4, 3), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("sampler", DETERMINISTIC)
def test_deterministic_samplers_follow_the_flow_of_a_gaussian(sampler):
    """For Gaussian data the probability flow carries (x_T − √ᾱ μ) / std_T over unchanged to (x_0 − μ) / std_0."""
    mean_L, std = torch.tensor([1.0, -2.0, 3.0]), 0.5
    samples = sample(perfect_for_gaussian(mean_L, std), sampler, indices=range(50))
    x_T = torch.stack([torch.randn(3, generator=generator_for(0, "test", index)) for index in range(50)])
    alpha = alphas_cumprod()[-1]
    expected = mean_L + std * (x_T - alpha.sqrt() * mean_L) / (alpha * std**2 + 1 - alpha).sqrt()
    torch.testing.assert_close(samples, expected.float(), rtol=0, atol=0.1)  # 20 or 50 steps for 1,000


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_gaussian_data_is_sampled_with_its_mean_and_std(sampler):
    mean_L, std = torch.tensor([1.0, -2.0, 3.0]).repeat(500), 0.5  # coordinates are independent: 4 × 500 draws of each
    samples = sample(perfect_for_gaussian(mean_L, std), sampler, latent_dim=1500).view(-1, 3)
    torch.testing.assert_close(samples.mean(dim=0), mean_L[:3], rtol=0, atol=0.05)
    torch.testing.assert_close(samples.std(dim=0), torch.full((3,), std), rtol=0.08, atol=0)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_sample_is_the_same_alone_and_in_any_batch(sampler):
    denoiser = randomize(MLPDenoiser(3, hidden_dim=8, num_blocks=1))
    together = sample(denoiser, sampler, indices=[0, 1, 2, 3])
    torch.testing.assert_close(sample(denoiser, sampler, indices=[2]), together[[2]], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(sample(denoiser, sampler, indices=[3, 1]), together[[3, 1]], rtol=1e-4, atol=1e-4)
    assert (together[0] - together[1]).abs().max() > 1e-2


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_denoiser_is_asked_with_one_timestep_per_sample_falling_to_zero(sampler):
    asked = []

    def denoiser(x_BL, t_B):
        asked.append(t_B)
        return torch.zeros_like(x_BL)

    sample(denoiser, sampler)
    timesteps = torch.stack(asked)
    assert timesteps.shape == (sampler_recipe(sampler)["num_steps"], 4) and timesteps.dtype == torch.int64
    assert (timesteps == timesteps[:, :1]).all() and (timesteps[:, 0].diff() < 0).all()
    assert timesteps[0, 0] >= 0.9 * T and timesteps[-1, 0] <= 0.06 * T


def test_ancestral_sampling_visits_every_timestep_and_its_last_step_adds_no_noise():
    seen = {}
    samples = sample(
        perfect_for_gaussian(torch.ones(3), std=0.5), "ddpm", on_step=lambda t, x_BL: seen.update({t: x_BL})
    )
    assert list(seen) == list(reversed(range(T)))
    torch.testing.assert_close(samples, seen[0], rtol=0, atol=0)
    # at t = 0 the step returns the estimate of x_0 from x_1 itself: Ho et al. 2020, Algorithm 2, line 3
    alpha = alphas_cumprod()[0].float()
    estimate = (
        seen[1]
        - (1 - alpha).sqrt() * perfect_for_gaussian(torch.ones(3), 0.5)(seen[1], torch.zeros(4, dtype=torch.int64))
    ) / alpha.sqrt()
    torch.testing.assert_close(samples, estimate, rtol=1e-4, atol=1e-4)


def test_sampling_leaves_the_global_randomness_alone():
    before = torch.get_rng_state()
    sample(lambda x_BL, t_B: torch.zeros_like(x_BL), "ddpm")
    assert torch.equal(torch.get_rng_state(), before)


def test_the_sampler_uses_the_schedule_that_was_trained_with():
    """Under a schedule that hardly adds noise, x_T is nearly x_0; under the default one, x_0 = x_T / √ᾱ_T = 157 x_T."""
    nearly_still = NoiseSchedule(T, 1e-6, 1e-6)
    samples = sample(lambda x_BL, t_B: torch.zeros_like(x_BL), "ddim", schedule=nearly_still)
    x_T = torch.stack([torch.randn(3, generator=generator_for(0, "test", index)) for index in range(4)])
    torch.testing.assert_close(samples, x_T, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("num_steps", [T + 1, -1])
def test_steps_that_the_schedule_does_not_have_are_refused_with_both_numbers(sampler, num_steps):
    with pytest.raises(UserError, match=f"num_steps={num_steps}: expected 1 to {T}"):
        sample(None, sampler, num_steps=num_steps)
