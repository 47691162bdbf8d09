"""Gaussian diffusion over latents: the noise schedule and the DDPM training objective.

B batch · L numbers per latent · T timesteps, numbered from 0 (the papers count from 1).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.runtime.errors import UserError

Denoiser = Callable[[Tensor, Tensor], Tensor]  # (x_BL, t_B) -> predicted noise (B, L)


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


def denoising_loss(
    denoiser: Denoiser, schedule: NoiseSchedule, x_start_BL: Tensor, t_B: Tensor | None = None
) -> Tensor:
    """Return the simple DDPM loss ‖ε − ε_θ(√ᾱ_t x_0 + √(1 − ᾱ_t) ε, t)‖² / L (Ho et al. 2020, Eq. 14).

    The loss is averaged over the batch, with one timestep t and one noise ε ~ N(0, I) per sample.

    Args:
        denoiser: ε_θ.
        schedule: The noise schedule, which gives ᾱ_t.
        x_start_BL: x_0, the latents to learn.
        t_B: The timestep of each sample; None draws uniform timesteps.
    """
    if t_B is None:
        t_B = torch.randint(schedule.num_timesteps, (len(x_start_BL),), device=x_start_BL.device)
    noise_BL = torch.randn_like(x_start_BL)
    return F.mse_loss(denoiser(schedule.q_sample(x_start_BL, t_B, noise_BL), t_B), noise_BL)
