"""Stage two: a DDPM over the standardized latents of the frozen autoencoder.

K checkpoints · B batch · L numbers in one latent.
"""

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.nn import Parameter

from core.diffusion.objective import NoiseSchedule, denoising_loss
from core.training.stepped_module import SteppedModule


class LatentDiffusionModule(SteppedModule):
    """Learn to predict the noise in noised latents. The latents are encoded once: the autoencoder no longer changes."""

    def __init__(self, denoiser: nn.Module, schedule: NoiseSchedule, latents_KL: Tensor, **options: Any):
        super().__init__(latents_KL, stage="diffusion", **options)
        self.denoiser, self.schedule = denoiser, schedule

    def loss(self, rows_B: Tensor) -> Tensor:
        return denoising_loss(self.denoiser, self.schedule, rows_B)

    def trained_parameters(self) -> Iterable[Parameter]:
        return self.denoiser.parameters()
