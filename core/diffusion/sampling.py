"""The reverse process, over the schedulers of diffusers.

B batch · L numbers in one latent.
"""

from collections.abc import Callable, Sequence

import torch
from diffusers import SchedulerMixin
from torch import Tensor

from core.diffusion.objective import Denoiser, NoiseSchedule
from core.runtime.errors import UserError

MakeScheduler = Callable[..., SchedulerMixin]


@torch.no_grad()
def denoise(
    denoiser: Denoiser,
    schedule: NoiseSchedule,
    make_scheduler: MakeScheduler,
    num_steps: int,
    x_BL: Tensor,
    generators: Sequence[torch.Generator],
    on_step: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Denoise x_T (B, L) to x_0, one random generator per sample.

    Every draw of sample i comes from generator i, so a sample does not depend on the batch that it is in
    (Karras et al. 2022's `StackedRandomGenerator`).

    Args:
        make_scheduler: a diffusers scheduler class with its own options bound; the schedule is bound here.
        num_steps: steps of the sampler, at most T.
        on_step: called with (timestep, x_t) after each step, to record a trajectory.

    Raises:
        UserError: more steps than the schedule has.
    """
    if not 1 <= num_steps <= schedule.num_timesteps:
        raise UserError(
            f"system.sampler.num_steps={num_steps}: expected 1 to {schedule.num_timesteps}, the timesteps of the noise schedule"
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
    """x_T ~ N(0, I), shape (B, L): row i comes from generator i."""
    return torch.stack([torch.randn(latent_dim, generator=generator) for generator in generators]).to(device)
