"""Sampling with denoisers whose result is known, and the check that every sampler has to pass."""

from functools import partial

import diffusers
import pytest
import torch
from hydra.utils import instantiate

from core.diffusion.gaussian_diffusion import NoiseSchedule
from core.diffusion.sampling import Sampler, draw_standard_normal
from core.networks.denoiser import MLPDenoiser
from core.runtime.errors import UserError
from core.runtime.seeding import generator_for
from tests.core.tiny import SAMPLERS, ZeroDenoiser, randomize, sampler_recipe

T = 1000
DETERMINISTIC = ["ddim", "dpm_solver"]


def alphas_cumprod():
    """Return ᾱ_t of the default schedule for every timestep (T,)."""
    return (1 - torch.linspace(1e-4, 0.02, T, dtype=torch.float64)).cumprod(0)


def sample(denoiser, sampler, *, latent_dim=3, indices=range(4), schedule=None, num_steps=None, on_step=None):
    recipe = sampler_recipe(sampler)
    generators = [generator_for(0, "test", index) for index in indices]
    x_BL = draw_standard_normal(latent_dim, generators, torch.device("cpu"))
    steps = num_steps or recipe["num_steps"]
    chosen = Sampler(instantiate(recipe["scheduler"]), schedule or NoiseSchedule(T), steps)
    return chosen.denoise(denoiser, x_BL, generators, on_step)


def make_optimal_denoiser(mean_L, std):
    """Return the optimal denoiser E[ε | x_t] for data x_0 ~ N(mean, std²), where x_t = √ᾱ x_0 + √(1−ᾱ) ε."""

    def denoiser(x_BL, t_B):
        alpha = alphas_cumprod()[t_B][:, None].to(x_BL.dtype)
        return (1 - alpha).sqrt() * (x_BL - alpha.sqrt() * mean_L) / (alpha * std**2 + 1 - alpha)

    return denoiser


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_data_that_is_one_point_is_sampled_as_that_point(sampler):
    point_L = torch.tensor([0.3, -2.0, 7.0])  # outside of [-1, 1], to which samplers for images clip
    samples = sample(make_optimal_denoiser(point_L, std=0), sampler)
    torch.testing.assert_close(samples, point_L.expand(4, 3), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("sampler", DETERMINISTIC)
def test_deterministic_samplers_follow_the_flow_of_a_gaussian(sampler):
    """For Gaussian data, the probability flow ODE has (x_0 − μ) / std_0 = (x_T − √ᾱ_T μ) / std_T."""
    mean_L, std = torch.tensor([1.0, -2.0, 3.0]), 0.5
    samples = sample(make_optimal_denoiser(mean_L, std), sampler, indices=range(50))
    x_T = torch.stack([torch.randn(3, generator=generator_for(0, "test", index)) for index in range(50)])
    alpha = alphas_cumprod()[-1]
    expected = mean_L + std * (x_T - alpha.sqrt() * mean_L) / (alpha * std**2 + 1 - alpha).sqrt()
    torch.testing.assert_close(samples, expected.float(), rtol=0, atol=0.1)  # 20 or 50 steps instead of 1,000


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_gaussian_data_is_sampled_with_its_mean_and_std(sampler):
    mean_L, std = torch.tensor([1.0, -2.0, 3.0]).repeat(500), 0.5  # 4 samples × 500 draws of each coordinate
    samples = sample(make_optimal_denoiser(mean_L, std), sampler, latent_dim=1500).view(-1, 3)
    torch.testing.assert_close(samples.mean(dim=0), mean_L[:3], rtol=0, atol=0.05)
    torch.testing.assert_close(samples.std(dim=0), torch.full((3,), std), rtol=0.08, atol=0)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_sample_does_not_depend_on_its_batch(sampler):
    denoiser = randomize(MLPDenoiser(3, hidden_dim=8, num_blocks=1))
    together = sample(denoiser, sampler, indices=[0, 1, 2, 3])
    torch.testing.assert_close(sample(denoiser, sampler, indices=[2]), together[[2]], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(sample(denoiser, sampler, indices=[3, 1]), together[[3, 1]], rtol=1e-4, atol=1e-4)
    assert (together[0] - together[1]).abs().max() > 1e-2


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_denoiser_gets_one_timestep_per_sample_falling_to_zero(sampler):
    denoiser = ZeroDenoiser()
    sample(denoiser, sampler)
    timesteps = torch.stack([t_B for _, t_B in denoiser.inputs])
    assert timesteps.shape == (sampler_recipe(sampler)["num_steps"], 4) and timesteps.dtype == torch.int64
    assert (timesteps == timesteps[:, :1]).all() and (timesteps[:, 0].diff() < 0).all()
    assert timesteps[0, 0] >= 0.9 * T and timesteps[-1, 0] <= 0.06 * T


def test_ancestral_sampling_visits_every_timestep_and_its_last_step_adds_no_noise():
    seen = {}
    samples = sample(
        make_optimal_denoiser(torch.ones(3), std=0.5), "ddpm", on_step=lambda t, x_BL: seen.update({t: x_BL})
    )
    assert list(seen) == list(reversed(range(T)))
    torch.testing.assert_close(samples, seen[0], rtol=0, atol=0)
    # The step at t = 0 returns the estimate of x_0 without noise (Ho et al. 2020, Algorithm 2, line 3).
    alpha = alphas_cumprod()[0].float()
    estimate = (
        seen[1]
        - (1 - alpha).sqrt() * make_optimal_denoiser(torch.ones(3), 0.5)(seen[1], torch.zeros(4, dtype=torch.int64))
    ) / alpha.sqrt()
    torch.testing.assert_close(samples, estimate, rtol=1e-4, atol=1e-4)


def test_the_sampler_of_the_first_release_clamps_every_sample_and_adds_noise_of_variance_beta():
    recipe, seen = sampler_recipe("release1"), {}
    chosen = Sampler(instantiate(recipe["scheduler"]), NoiseSchedule(T), 1000, clamp=recipe["clamp_samples"])
    chosen.check()
    generators = [generator_for(0, "test", index) for index in range(4)]
    x_BL = draw_standard_normal(500, generators, torch.device("cpu"))
    samples = chosen.denoise(ZeroDenoiser(), x_BL, generators, lambda t, x_BL: seen.update({t: x_BL}))
    assert x_BL.abs().max() > 1 and all(x_BL.abs().max() == 1 for t, x_BL in seen.items() if t > 900)
    assert samples.abs().max() <= 1
    # Without noise in x_t, the estimate of x_0 at t = 1 is x_t / √ᾱ_1. The step adds √β_1 ξ to the posterior mean.
    beta, alpha, earlier = torch.linspace(1e-4, 0.02, T)[1], alphas_cumprod()[1], alphas_cumprod()[0]
    x_start = (seen[2] / alpha.sqrt()).clamp(-1, 1)
    mean = (earlier.sqrt() * beta * x_start + (1 - beta).sqrt() * (1 - earlier) * seen[2]) / (1 - alpha)
    inside = mean.abs() < 0.9
    noise = (seen[1] - mean)[inside]
    assert noise.std().item() == pytest.approx(beta.sqrt().item(), rel=0.1)


def test_sampling_does_not_use_the_global_random_state():
    before = torch.get_rng_state()
    sample(ZeroDenoiser(), "ddpm")
    assert torch.equal(torch.get_rng_state(), before)


def test_the_sampler_uses_the_schedule_that_was_trained_with():
    """If ε = 0, then x_0 = x_T / √ᾱ_T: nearly x_T with almost no noise, and 157 x_T with the default schedule."""
    samples = sample(ZeroDenoiser(), "ddim", schedule=NoiseSchedule(T, 1e-6, 1e-6))
    x_T = torch.stack([torch.randn(3, generator=generator_for(0, "test", index)) for index in range(4)])
    torch.testing.assert_close(samples, x_T, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("num_steps", [T + 1, -1])
def test_an_invalid_number_of_steps_is_refused_with_the_largest_valid_one(sampler, num_steps):
    with pytest.raises(UserError, match=rf"system\.sampler\.num_steps={num_steps} .*{T}"):
        sample(None, sampler, num_steps=num_steps)


def make_sampler(name, num_steps=20, **options):
    return Sampler(partial(getattr(diffusers, name), **options), NoiseSchedule(T), num_steps)


@pytest.mark.parametrize(
    "name",
    ["EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler", "UniPCMultistepScheduler"],
)
def test_schedulers_with_another_scale_and_timesteps_between_those_of_training_sample_a_gaussian(name):
    """Euler and Heun start from noise of std 157, scale the input of the denoiser, and have fractional timesteps."""
    mean_L, std = torch.tensor([1.0, -2.0, 3.0]).repeat(500), 0.5

    def denoiser(x_BL, t_B):
        log_alpha = alphas_cumprod().log()
        below = t_B.floor().long() if t_B.is_floating_point() else t_B
        share = (t_B - below)[:, None]
        above = (below + 1).clamp(max=T - 1)
        alpha = ((1 - share) * log_alpha[below][:, None] + share * log_alpha[above][:, None]).exp().float()
        return (1 - alpha).sqrt() * (x_BL - alpha.sqrt() * mean_L) / (alpha * std**2 + 1 - alpha)

    sampler = make_sampler(name, 200)
    sampler.check()
    generators = [generator_for(0, "test", index) for index in range(4)]
    x_BL = draw_standard_normal(1500, generators, torch.device("cpu"))
    scales = []
    samples = sampler.denoise(denoiser, x_BL, generators, lambda t, state_BL: scales.append(state_BL.std())).view(-1, 3)
    torch.testing.assert_close(samples.mean(dim=0), mean_L[:3], rtol=0, atol=0.06)
    torch.testing.assert_close(samples.std(dim=0), torch.full((3,), std), rtol=0.1, atol=0)
    assert max(scales) < 3  # The recorded states have the scale of x_t in training.


@pytest.mark.parametrize(
    "name, named",
    [
        ("EDMEulerScheduler", "beta_start"),
        ("FlowMatchEulerDiscreteScheduler", "prediction_type"),
        ("DDIMInverseScheduler", "away from data"),
        ("CogVideoXDPMScheduler", "timestep_back"),
    ],
)
def test_a_scheduler_that_cannot_sample_is_refused_with_its_name_and_the_reason(name, named):
    with pytest.raises(UserError, match=rf"{name} .*{named}.*Set system/sampler"):
        make_sampler(name).check()


def test_images_are_no_latents_so_clipping_is_off_unless_it_is_set():
    point_L = torch.tensor([5.0, -7.0])
    generators = [generator_for(0, "test", 0)]
    x_BL = draw_standard_normal(2, generators, torch.device("cpu"))
    for options, expected in (({}, point_L), ({"clip_sample": True}, torch.tensor([1.0, -1.0]))):
        sampler = make_sampler("DDIMScheduler", **options)
        samples = sampler.denoise(make_optimal_denoiser(point_L, std=0), x_BL, generators)
        torch.testing.assert_close(samples[0], expected, rtol=1e-3, atol=1e-3)


def test_a_scheduler_that_draws_from_the_global_state_is_refused(monkeypatch):
    class Careless(diffusers.DDIMScheduler):
        def step(self, noise, timestep, sample):
            stepped = super().step(noise, timestep, sample)
            stepped.prev_sample = stepped.prev_sample + 1e-3 * torch.randn(sample.shape)
            return stepped

    with pytest.raises(UserError, match=r"Careless .*seed"):
        Sampler(Careless, NoiseSchedule(T), 20).check()
