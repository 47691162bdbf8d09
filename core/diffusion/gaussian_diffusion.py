"""Gaussian diffusion: the DDPM training objective, and the reverse process over the schedulers of diffusers.

B batch · L numbers in one latent · T timesteps.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.runtime.errors import UserError

Denoiser = Callable[[Tensor, Tensor], Tensor]  # (x_BL, t_B) -> predicted noise (B, L)
MakeScheduler = Callable[..., Any]  # makes a scheduler of diffusers, whose common base class declares no steps
OnStep = Callable[[int, Tensor], None]  # (timestep, x_BL)


class NoiseSchedule(nn.Module):
    """Linear β from `beta_start` to `beta_end` over T steps.  Ho et al. 2020, §4.

    Raises:
        UserError: The values are no increasing schedule inside (0, 1).
    """

    sqrt_alphas_cumprod: Tensor
    sqrt_one_minus_alphas_cumprod: Tensor

    def __init__(self, num_timesteps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02):
        super().__init__()
        if num_timesteps < 1 or not 0 < beta_start <= beta_end < 1:
            raise UserError(
                f"noise schedule with num_timesteps={num_timesteps}, beta_start={beta_start}, beta_end={beta_end}: "
                "expected T >= 1 and 0 < start <= end < 1"
            )
        self.num_timesteps, self.beta_start, self.beta_end = num_timesteps, beta_start, beta_end
        # float64 while multiplying: a product of 1,000 factors in float32 loses digits
        betas = torch.linspace(beta_start, beta_end, num_timesteps, dtype=torch.float64)
        alphas_cumprod = (1 - betas).cumprod(dim=0)
        self.register_buffer("sqrt_alphas_cumprod", alphas_cumprod.sqrt().float(), persistent=False)
        self.register_buffer("sqrt_one_minus_alphas_cumprod", (1 - alphas_cumprod).sqrt().float(), persistent=False)

    def q_sample(self, x_start_BL: Tensor, t_B: Tensor, noise_BL: Tensor) -> Tensor:
        """Draw x_t ~ q(x_t | x_0).  Ho et al. 2020, Eq. 4."""
        return (
            self.sqrt_alphas_cumprod[t_B, None] * x_start_BL + self.sqrt_one_minus_alphas_cumprod[t_B, None] * noise_BL
        )


def denoising_loss(denoiser: Denoiser, schedule: NoiseSchedule, x_start_BL: Tensor) -> Tensor:
    """Return the simple ε loss, with one timestep for each sample.  Ho et al. 2020, Eq. 14."""
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
    """Denoise x_T (B, L) to x_0, with one random generator per sample.

    Every draw of sample i comes from generator i, so a sample does not depend on the batch that it is in
    (Karras et al. 2022's `StackedRandomGenerator`).

    Args:
        denoiser: Predicts the noise in x_t.
        schedule: The schedule that the denoiser was trained with.
        make_scheduler: A diffusers scheduler class with its own options bound; the schedule is bound here.
        num_steps: Steps of the sampler, at most T.
        x_BL: Standard normal numbers, x_T.
        generators: One for each row of `x_BL`.
        on_step: Called with (timestep, x_t) after each step, to record a trajectory.

    Raises:
        UserError: There are more steps than the schedule has.
    """
    if not 1 <= num_steps <= schedule.num_timesteps:
        raise UserError(
            f"system.sampler.num_steps={num_steps}: expected 1 to {schedule.num_timesteps}, "
            "the timesteps of the noise schedule"
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


def standard_normal(latent_dim: int, generators: Sequence[torch.Generator], device: torch.device) -> Tensor:
    """Draw x_T ~ N(0, I), shape (B, L): row i comes from generator i."""
    return torch.stack([torch.randn(latent_dim, generator=generator) for generator in generators]).to(device)
