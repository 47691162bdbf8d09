"""The noise schedule and the DDPM objective against closed forms."""

import math

import pytest
import torch
from diffusers import DDPMScheduler

from core.diffusion.gaussian_diffusion import NoiseSchedule, denoising_loss
from core.runtime.errors import UserError
from tests.core.tiny import ZeroDenoiser


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
