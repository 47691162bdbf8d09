"""Sampling with the schedulers of diffusers, each tried on a known answer before it is used.

B batch · L numbers per latent · T timesteps, numbered from 0.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.diffusion.gaussian_diffusion import Denoiser, NoiseSchedule
from core.runtime.errors import UserError

MakeScheduler = Callable[..., Any]  # builds a scheduler of diffusers; their common base class does not declare `step`
OnStep = Callable[[float, Tensor], None]  # (timestep, x_BL)
TOLERANCE = 0.05  # distance at which a sampler still counts as arrived at the known answer
USABLE = "Set system/sampler to one of ddim, ddpm, dpm_solver"


class Sampler:
    """A scheduler class of diffusers over the noise schedule of training, with a number of steps.

    Args:
        make_scheduler: A scheduler class of diffusers with its options bound. The noise schedule is added here, and
            `clip_sample=False` unless it is set, because latents are not images in [-1, 1].
        schedule: The noise schedule that the denoiser was trained with.
        num_steps: Steps of the sampler, from 1 to T.
        clamp: Whether every x is clamped to [−1, 1] after its step, as in p-diff's first release.

    Raises:
        UserError: `num_steps` is not between 1 and T, or the class takes no such noise schedule.
    """

    def __init__(self, make_scheduler: MakeScheduler, schedule: NoiseSchedule, num_steps: int, *, clamp: bool = False):
        if not 1 <= num_steps <= schedule.num_timesteps:
            raise UserError(
                f"system.sampler.num_steps={num_steps} is invalid: expected 1 to {schedule.num_timesteps}, "
                "the value of system.schedule.num_timesteps. "
                f"Set system.sampler.num_steps={schedule.num_timesteps} or less"
            )
        self.make_scheduler, self.schedule, self.num_steps, self.clamp = make_scheduler, schedule, num_steps, clamp
        self.name = getattr(make_scheduler, "func", make_scheduler).__name__
        self.takes_generator = "generator" in inspect.signature(self._start().step).parameters

    def _start(self) -> Any:
        """Return a new scheduler, ready for its first step."""
        options: dict[str, Any] = {
            "num_train_timesteps": self.schedule.num_timesteps,
            "beta_start": self.schedule.beta_start,
            "beta_end": self.schedule.beta_end,
            "beta_schedule": "linear",
            "prediction_type": "epsilon",
        }
        try:
            parameters = inspect.signature(self.make_scheduler).parameters
        except ValueError as error:  # the bound options are not those of the class
            raise self._refuse(error.__cause__ or error) from error
        if "clip_sample" in parameters and "clip_sample" not in getattr(self.make_scheduler, "keywords", {}):
            options["clip_sample"] = False
        if missing := options.keys() - parameters.keys():
            raise UserError(
                f"system.sampler.scheduler: {self.name} takes no {', '.join(sorted(missing))}, so it cannot sample "
                f"with the noise schedule of training. {USABLE}"
            )
        try:
            scheduler = self.make_scheduler(**options)
            scheduler.set_timesteps(self.num_steps)
        except Exception as error:  # schedulers of diffusers fail in many ways
            raise self._refuse(error) from error
        return scheduler

    def _refuse(self, error: BaseException) -> UserError:
        """Return the error for a scheduler that fails."""
        reason = " ".join(str(error).split())
        return UserError(
            f"system.sampler.scheduler: {self.name} cannot sample with {self.num_steps} steps ({reason}). {USABLE}"
        )

    @torch.no_grad()
    def denoise(
        self,
        denoiser: Denoiser,
        x_BL: Tensor,
        generators: Sequence[torch.Generator],
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Run the reverse process from x_T to x_0, both (B, L).

        Each step predicts the noise ε_θ(x_t, t), and the scheduler turns it into the next, less noisy x. All random
        numbers of sample i come from generator i, so a sample does not depend on its batch (`StackedRandomGenerator`
        of Karras et al. 2022).

        Args:
            denoiser: ε_θ.
            x_BL: x_T ~ N(0, I).
            generators: One random generator for each row of `x_BL`.
            on_step: Called as on_step(t, x_BL) after the step at timestep t, for example to record a trajectory. The
                state is scaled as x_t is in training, also for schedulers that scale it otherwise.

        Returns:
            x_0, shape (B, L).
        """
        scheduler = self._start()
        options = {"generator": list(generators)} if self.takes_generator else {}
        timesteps = list(scheduler.timesteps)
        state_BL = x_BL * scheduler.init_noise_sigma
        x_BL = scheduler.scale_model_input(state_BL, timesteps[0])
        for index, t in enumerate(timesteps):
            t_B = torch.full((len(x_BL),), t.item(), device=x_BL.device)
            state_BL = scheduler.step(denoiser(x_BL, t_B), t, state_BL, **options).prev_sample
            if self.clamp:
                state_BL = state_BL.clamp(-1, 1)
            is_last = index == len(timesteps) - 1
            x_BL = state_BL if is_last else scheduler.scale_model_input(state_BL, timesteps[index + 1])
            if on_step is not None:
                on_step(t.item(), x_BL)
        return x_BL

    def check(self) -> None:
        """Check that the sampler finds a known answer, and the same one twice.

        If the data is a single point x_0, the noise in x_t is known: ε = (x_t − √ᾱ_t x_0) / √(1 − ᾱ_t). With this
        prediction every sampler must end at x_0. One that runs backwards, clips, or expects another prediction does
        not.

        Raises:
            UserError: It ends elsewhere, fails, or draws random numbers of its own.
        """
        point_L = torch.linspace(-0.5, 0.5, 4)
        try:
            first, second = (self._sample_point(point_L) for _ in range(2))
        except UserError:
            raise
        except Exception as error:  # schedulers of diffusers fail in many ways
            raise self._refuse(error) from error
        distance = float((first - point_L).abs().max())
        if not distance <= TOLERANCE:
            raise UserError(
                f"system.sampler.scheduler: {self.name} with {self.num_steps} steps ends {distance:.2g} away from data "
                f"whose noise it is told exactly, so its samples would be wrong. {USABLE}"
            )
        if not torch.equal(first, second):
            raise UserError(
                f"system.sampler.scheduler: {self.name} draws random numbers that seed does not decide. {USABLE}"
            )

    def _sample_point(self, point_L: Tensor) -> Tensor:
        """Return the sample (1, L) for data that is one point, from a fixed x_T."""
        schedule = self.schedule
        ratio_T = (schedule.sqrt_one_minus_alphas_cumprod / schedule.sqrt_alphas_cumprod).cpu().double().numpy()

        def predict_noise(x_BL: Tensor, t_B: Tensor) -> Tensor:
            # Schedulers with timesteps between those of training interpolate the ratio of noise to signal.
            ratio = float(np.interp(float(t_B[0]), np.arange(len(ratio_T)), ratio_T))
            signal = (1 + ratio**2) ** -0.5
            return (x_BL - signal * point_L) / (ratio * signal)

        generator = torch.Generator().manual_seed(0)
        return self.denoise(predict_noise, torch.randn(1, len(point_L), generator=generator), [generator])


def draw_standard_normal(latent_dim: int, generators: Sequence[torch.Generator], device: torch.device) -> Tensor:
    """Draw x_T ~ N(0, I), shape (B, L), where row i comes from generator i."""
    return torch.stack([torch.randn(latent_dim, generator=generator) for generator in generators]).to(device)
