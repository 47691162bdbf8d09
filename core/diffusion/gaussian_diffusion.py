"""Gaussian diffusion over latents: the DDPM training objective, and sampling with the schedulers of diffusers.

B batch · L numbers per latent · T timesteps, numbered from 0 (the papers count from 1).
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.runtime.errors import UserError

Denoiser = Callable[[Tensor, Tensor], Tensor]  # (x_BL, t_B) -> predicted noise (B, L)
MakeScheduler = Callable[..., Any]  # builds a scheduler of diffusers; their common base class does not declare `step`
OnStep = Callable[[int, Tensor], None]  # (timestep, x_BL)


class NoiseSchedule(nn.Module):
    """The linear noise schedule of DDPM (Ho et al. 2020, §4).

    β_t rises linearly from `beta_start` at t = 0 to `beta_end` at t = T − 1. The forward process turns x_0 into
    x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε, where ε ~ N(0, I) and ᾱ_t = (1 − β_0) (1 − β_1) ⋯ (1 − β_t).

    Args:
        num_timesteps: T, at least 1.
        beta_start: β_0.
        beta_end: β_{T−1}.

    Raises:
        UserError: T is below 1, or 0 < `beta_start` ≤ `beta_end` < 1 does not hold.
    """

    sqrt_alphas_cumprod: Tensor
    sqrt_one_minus_alphas_cumprod: Tensor

    def __init__(self, num_timesteps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02):
        super().__init__()
        if num_timesteps < 1 or not 0 < beta_start <= beta_end < 1:
            raise UserError(
                f"noise schedule with num_timesteps={num_timesteps}, beta_start={beta_start}, beta_end={beta_end} "
                "is invalid: expected num_timesteps >= 1 and 0 < beta_start <= beta_end < 1. "
                "Set them under system.schedule"
            )
        self.num_timesteps, self.beta_start, self.beta_end = num_timesteps, beta_start, beta_end
        # A product of 1,000 factors loses digits in float32, so it is computed in float64.
        betas = torch.linspace(beta_start, beta_end, num_timesteps, dtype=torch.float64)
        alphas_cumprod = (1 - betas).cumprod(dim=0)
        self.register_buffer("sqrt_alphas_cumprod", alphas_cumprod.sqrt().float(), persistent=False)
        self.register_buffer("sqrt_one_minus_alphas_cumprod", (1 - alphas_cumprod).sqrt().float(), persistent=False)

    def q_sample(self, x_start_BL: Tensor, t_B: Tensor, noise_BL: Tensor) -> Tensor:
        """Return x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε, a draw from q(x_t | x_0) (Ho et al. 2020, Eq. 4).

        Args:
            x_start_BL: x_0.
            t_B: One timestep per sample.
            noise_BL: ε ~ N(0, I).

        Returns:
            x_t, shape (B, L).
        """
        return (
            self.sqrt_alphas_cumprod[t_B, None] * x_start_BL + self.sqrt_one_minus_alphas_cumprod[t_B, None] * noise_BL
        )


def denoising_loss(denoiser: Denoiser, schedule: NoiseSchedule, x_start_BL: Tensor) -> Tensor:
    """Return the simple DDPM loss ‖ε − ε_θ(√ᾱ_t x_0 + √(1 − ᾱ_t) ε, t)‖² / L (Ho et al. 2020, Eq. 14).

    The loss is averaged over the batch, with one uniform timestep t and one noise ε ~ N(0, I) per sample.

    Args:
        denoiser: ε_θ.
        schedule: The noise schedule, which gives ᾱ_t.
        x_start_BL: x_0, the latents to learn.
    """
    t_B = torch.randint(schedule.num_timesteps, (len(x_start_BL),), device=x_start_BL.device)
    noise_BL = torch.randn_like(x_start_BL)
    return F.mse_loss(denoiser(schedule.q_sample(x_start_BL, t_B, noise_BL), t_B), noise_BL)


@torch.no_grad()
def denoise(
    denoiser: Denoiser,
    schedule: NoiseSchedule,
    *,
    make_scheduler: MakeScheduler,
    num_steps: int,
    x_BL: Tensor,
    generators: Sequence[torch.Generator],
    on_step: OnStep | None = None,
) -> Tensor:
    """Run the reverse process from x_T to x_0, both (B, L).

    Each step predicts the noise ε_θ(x_t, t), and the scheduler turns it into the next, less noisy x. All random numbers
    of sample i come from generator i, so a sample does not depend on its batch (`StackedRandomGenerator` of Karras
    et al. 2022).

    Args:
        denoiser: ε_θ.
        schedule: The noise schedule that the denoiser was trained with.
        make_scheduler: A scheduler class of diffusers with its options bound; the noise schedule is added here.
        num_steps: Steps of the sampler, from 1 to T.
        x_BL: x_T ~ N(0, I).
        generators: One random generator for each row of `x_BL`.
        on_step: Called as on_step(t, x_BL) after the step at timestep t, for example to record a trajectory.

    Returns:
        x_0, shape (B, L).

    Raises:
        UserError: `num_steps` is not between 1 and T.
    """
    if not 1 <= num_steps <= schedule.num_timesteps:
        raise UserError(
            f"system.sampler.num_steps={num_steps} is invalid: expected 1 to {schedule.num_timesteps}, "
            "the value of system.schedule.num_timesteps. "
            f"Set system.sampler.num_steps={schedule.num_timesteps} or less"
        )
    scheduler = make_scheduler(
        num_train_timesteps=schedule.num_timesteps,
        beta_start=schedule.beta_start,
        beta_end=schedule.beta_end,
        beta_schedule="linear",
        prediction_type="epsilon",
    )
    scheduler.set_timesteps(num_steps)
    for t in scheduler.timesteps.tolist():
        t_B = torch.full((len(x_BL),), t, device=x_BL.device)
        x_BL = scheduler.step(denoiser(x_BL, t_B), t, x_BL, generator=list(generators)).prev_sample
        if on_step is not None:
            on_step(t, x_BL)
    return x_BL


def draw_standard_normal(latent_dim: int, generators: Sequence[torch.Generator], device: torch.device) -> Tensor:
    """Draw x_T ~ N(0, I), shape (B, L), where row i comes from generator i."""
    return torch.stack([torch.randn(latent_dim, generator=generator) for generator in generators]).to(device)
