"""The DDPM training objective (Ho et al. 2020).

B batch · L numbers in one latent · T timesteps.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.runtime.errors import UserError

Denoiser = Callable[[Tensor, Tensor], Tensor]  # (x_BL, t_B) -> predicted noise (B, L)


class NoiseSchedule(nn.Module):
    """Linear β from `beta_start` to `beta_end` over T steps.  Ho et al. 2020, §4.

    Raises:
        UserError: values that are not an increasing schedule inside (0, 1).
    """

    def __init__(self, num_timesteps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02):
        super().__init__()
        if num_timesteps < 1 or not 0 < beta_start <= beta_end < 1:
            raise UserError(
                f"noise schedule with num_timesteps={num_timesteps}, beta_start={beta_start}, beta_end={beta_end}: expected T >= 1 and 0 < start <= end < 1"
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
    """The simple ε loss, one timestep for each sample.  Ho et al. 2020, Eq. 14."""
    t_B = torch.randint(schedule.num_timesteps, (len(x_start_BL),), device=x_start_BL.device)
    noise_BL = torch.randn_like(x_start_BL)
    return F.mse_loss(denoiser(schedule.q_sample(x_start_BL, t_B, noise_BL), t_B), noise_BL)
