"""The DDPM objective against closed forms, and sampling with denoisers whose result is known."""

import math

import pytest
import torch
from diffusers import DDPMScheduler
from hydra.utils import instantiate

from core.diffusion.gaussian_diffusion import NoiseSchedule, denoise, denoising_loss, draw_standard_normal
from core.networks.denoiser import MLPDenoiser
from core.runtime.errors import UserError
from core.runtime.seeding import generator_for
from tests.core.tiny import SAMPLERS, randomize, sampler_recipe

T = 1000
DETERMINISTIC = ["ddim", "dpm_solver"]


@pytest.fixture
def schedule():
    return NoiseSchedule(1000, 1e-4, 0.02)


def signal_and_noise(schedule):
    """Return √ᾱ_t and √(1−ᾱ_t) for every timestep, as `q_sample` uses them."""
    t_B, ones, zeros = (
        torch.arange(schedule.num_timesteps),
        torch.ones(schedule.num_timesteps, 1),
        torch.zeros(schedule.num_timesteps, 1),
    )
    return schedule.q_sample(ones, t_B, zeros)[:, 0], schedule.q_sample(zeros, t_B, ones)[:, 0]


def test_a_schedule_of_two_steps_equals_the_products_by_hand():
    signal, noise = signal_and_noise(NoiseSchedule(2, 0.1, 0.4))
    assert signal.tolist() == pytest.approx([math.sqrt(0.9), math.sqrt(0.9 * 0.6)])
    assert noise.tolist() == pytest.approx([math.sqrt(0.1), math.sqrt(1 - 0.9 * 0.6)])


def test_the_schedule_of_ddpm_has_its_known_first_and_last_values(schedule):
    signal, noise = signal_and_noise(schedule)
    log_product = sum(math.log1p(-(1e-4 + (0.02 - 1e-4) * t / 999)) for t in range(1000))
    assert (
        signal[-1].item() ** 2 == pytest.approx(math.exp(log_product), rel=1e-5) == pytest.approx(4.0358e-5, rel=1e-4)
    )
    assert noise[0].item() == pytest.approx(0.01, rel=1e-4)
    assert (signal.diff() < 0).all()


def test_the_variances_of_signal_and_noise_add_up_to_one(schedule):
    signal, noise = signal_and_noise(schedule)
    torch.testing.assert_close(signal**2 + noise**2, torch.ones(1000))


@pytest.mark.parametrize("options", [(1000, 1e-4, 0.02), (100, 1e-4, 0.02), (1000, 1e-3, 0.01)])
def test_the_schedule_of_training_equals_that_of_the_samplers(options):
    steps, start, end = options
    library = DDPMScheduler(num_train_timesteps=steps, beta_start=start, beta_end=end, beta_schedule="linear")
    torch.testing.assert_close(
        signal_and_noise(NoiseSchedule(*options))[0] ** 2, library.alphas_cumprod, rtol=1e-4, atol=1e-7
    )


def test_noising_agrees_with_the_library(schedule):
    x_start, noise, t_B = torch.randn(3, 5), torch.randn(3, 5), torch.tensor([0, 499, 999])
    library = DDPMScheduler(num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02)
    torch.testing.assert_close(schedule.q_sample(x_start, t_B, noise), library.add_noise(x_start, noise, t_B))


def test_each_sample_is_noised_by_its_own_timestep(schedule):
    x_start, noise, t_B = torch.randn(2, 5), torch.randn(2, 5), torch.tensor([3, 700])
    together = schedule.q_sample(x_start, t_B, noise)
    for row in range(2):
        torch.testing.assert_close(
            together[[row]], schedule.q_sample(x_start[[row]], t_B[[row]], noise[[row]]), rtol=0, atol=0
        )


class ZeroDenoiser:
    """A denoiser that always predicts zero noise and records its inputs."""

    def __init__(self):
        self.inputs = []

    def __call__(self, x_BL, t_B):
        self.inputs.append((x_BL, t_B))
        return torch.zeros_like(x_BL)


def test_the_loss_draws_one_uniform_timestep_per_sample():
    denoiser = ZeroDenoiser()
    denoising_loss(denoiser, NoiseSchedule(8), torch.randn(2000, 3))
    ((_, t_B),) = denoiser.inputs
    assert t_B.shape == (2000,)
    counts = torch.bincount(t_B, minlength=8)
    assert len(counts) == 8 and (counts > 200).all() and (counts < 300).all()


def test_the_loss_gives_the_denoiser_samples_noised_for_their_timesteps(schedule):
    """For x_0 = 0, x_t / √(1−ᾱ_t) is the noise itself, which has unit variance at every timestep."""
    denoiser = ZeroDenoiser()
    denoising_loss(denoiser, schedule, torch.zeros(4000, 5))
    ((x_BL, t_B),) = denoiser.inputs
    noise = x_BL / schedule.q_sample(torch.zeros(4000, 5), t_B, torch.ones(4000, 5))
    early, late = noise[t_B < 300], noise[t_B > 700]
    assert early.std().item() == pytest.approx(1, rel=0.05) and late.std().item() == pytest.approx(1, rel=0.05)


def test_the_loss_of_a_perfect_denoiser_is_zero(schedule):
    x_start = torch.randn(64, 5)

    def perfect(x_BL, t_B):
        signal, noise = signal_and_noise(schedule)
        return (x_BL - signal[t_B, None] * x_start) / noise[t_B, None]

    assert denoising_loss(perfect, schedule, x_start).item() == pytest.approx(0, abs=1e-6)


def test_the_loss_of_predicting_zero_is_the_variance_of_the_noise(schedule):
    loss = denoising_loss(ZeroDenoiser(), schedule, torch.full((5000, 4), 7.0))
    assert loss.item() == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize(
    "options", [(0, 1e-4, 0.02), (10, 0.0, 0.02), (10, 0.02, 1e-4), (10, 0.1, 1.0), (10, -0.1, 0.1)]
)
def test_an_invalid_schedule_is_refused_with_its_values(options):
    with pytest.raises(UserError, match="num_timesteps={}, beta_start={}, beta_end={}".format(*options)):
        NoiseSchedule(*options)


def alphas_cumprod():
    """Return ᾱ_t of the default schedule for every timestep (T,)."""
    return (1 - torch.linspace(1e-4, 0.02, T, dtype=torch.float64)).cumprod(0)


def sample(denoiser, sampler, *, latent_dim=3, indices=range(4), schedule=None, num_steps=None, on_step=None):
    recipe = sampler_recipe(sampler)
    generators = [generator_for(0, "test", index) for index in indices]
    steps = num_steps or recipe["num_steps"]
    x_BL = draw_standard_normal(latent_dim, generators, torch.device("cpu"))
    return denoise(
        denoiser,
        schedule or NoiseSchedule(T),
        make_scheduler=instantiate(recipe["scheduler"]),
        num_steps=steps,
        x_BL=x_BL,
        generators=generators,
        on_step=on_step,
    )


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
