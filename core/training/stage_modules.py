"""The LightningModules of the two stages: the parameter autoencoder, and the DDPM over its latents.

K checkpoints · B batch · D parameters per vector · L numbers per latent.
"""

from collections.abc import Iterable
from typing import Any

import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader

from core.checkpoints.normalizer import Normalizer
from core.diffusion.gaussian_diffusion import NoiseSchedule, denoising_loss
from core.networks.autoencoder import Autoencoder
from core.runtime.errors import UserError
from core.runtime.seeding import derive_seed, reseed
from core.runtime.trainer import MakeOptimizer, ReportingModule


class SteppedModule(ReportingModule):
    """Training for a fixed number of steps on K rows, which stay on the device.

    Step s of S has the learning rate lr · (1 + cos(π s / S)) / 2, or lr itself if the rate is constant. Every step
    seeds the random generators from (seed, stage, step), as EDM2 does, so that a resumed run gives the same weights as
    an uninterrupted one. It then draws its batch on the device, without a data loader.

    Args:
        rows_K: The data, shape (K, …).
        stage: The name of the stage in logs and seeds.
        make_optimizer: An optimizer class with its options bound.
        num_steps: S, the number of optimizer steps, at least 1.
        batch_size: At least 2, because networks normalize over the batch. `core.command_line.ranges` checks both.
        seed: Decides all random numbers, together with the stage and the step.
        compile_mode: The mode of `torch.compile` for the loss, for example "default", or "reduce-overhead", which uses
            CUDA graphs. None does not compile.
        learning_rate_schedule: "cosine" or "constant".
    """

    rows_K: Tensor

    def __init__(
        self,
        rows_K: Tensor,
        *,
        stage: str,
        make_optimizer: MakeOptimizer,
        num_steps: int,
        batch_size: int,
        seed: int,
        compile_mode: str | None = None,
        learning_rate_schedule: str = "cosine",
    ):
        super().__init__()
        self.register_buffer("rows_K", rows_K, persistent=False)
        self.stage, self.make_optimizer = stage, make_optimizer
        self.num_steps, self.batch_size, self.seed = num_steps, batch_size, seed
        self.learning_rate_schedule = learning_rate_schedule
        self.compiled_loss = torch.compile(self.loss, mode=compile_mode) if compile_mode else None

    def loss(self, rows_B: Tensor) -> Tensor:
        """Return the loss of a batch of rows (B, …)."""
        raise NotImplementedError

    def batch_loss(self, rows_B: Tensor) -> Tensor:
        """Return `loss` of a batch of rows (B, …), compiled if `compile_mode` was given."""
        return (self.compiled_loss or self.loss)(rows_B)

    def get_trained_parameters(self) -> Iterable[Parameter]:
        """Return the parameters for the optimizer."""
        raise NotImplementedError

    def train_dataloader(self) -> DataLoader[int]:
        """Return a loader of step numbers; `training_step` draws the batch."""
        return DataLoader(range(self.num_steps), batch_size=None)  # type: ignore[arg-type]  # a sequence is enough

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed the random generators for this step."""
        reseed(derive_seed(self.seed, self.stage, self.global_step), self.device)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Draw min(B, K) different rows, and report and return their loss."""
        rows = torch.randperm(len(self.rows_K), device=self.device)[: self.batch_size]
        loss = self.batch_loss(self.rows_K[rows])
        self.report(f"{self.stage}/loss", loss)
        return loss

    def on_train_end(self) -> None:
        """Check that all weights are finite, because the last steps may have diverged after the last reported loss.

        Raises:
            UserError: A parameter or buffer is not finite.
        """
        for name, tensor in self.state_dict().items():
            if not torch.isfinite(tensor).all():
                raise UserError(
                    f"{self.stage}: {name} is not finite after {self.global_step} steps. "
                    "Set a smaller learning rate (lr of the optimizer of this stage)"
                )

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the optimizer, and the cosine schedule of its learning rate unless the rate is constant."""
        optimizer = self.make_optimizer(self.get_trained_parameters())
        if self.learning_rate_schedule == "constant":
            return optimizer
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": CosineAnnealingLR(optimizer, T_max=self.num_steps), "interval": "step"},
        }


class AutoencoderModule(SteppedModule):
    """Stage one, which trains the autoencoder to reconstruct normalized vectors in spite of noise (p-diff, Eq. 3–4).

    Args:
        autoencoder: The network to train.
        rows_K: The rows for `Autoencoder.training_loss`, or, with a normalizer, the vectors (K, D) before it.
        normalizer: Normalizes every batch, so that memory-mapped vectors (K, D) are never copied as a whole. None if
            `rows_K` needs no normalization.
        **options: The arguments of `SteppedModule`, except for `stage`.
    """

    def __init__(self, autoencoder: Autoencoder, rows_K: Tensor, normalizer: Normalizer | None = None, **options: Any):
        super().__init__(rows_K, stage="autoencoder", **options)
        self.autoencoder, self.normalizer = autoencoder, normalizer

    def loss(self, rows_B: Tensor) -> Tensor:
        """Return `Autoencoder.training_loss` of the normalized batch."""
        return self.autoencoder.training_loss(self.normalizer.normalize(rows_B) if self.normalizer else rows_B)

    def get_trained_parameters(self) -> Iterable[Parameter]:
        """Return the parameters of the autoencoder."""
        return self.autoencoder.parameters()


class LatentDiffusionModule(SteppedModule):
    """Stage two, which trains the denoiser to predict the noise in noised latents (Ho et al. 2020, Algorithm 1).

    Args:
        denoiser: The network to train.
        schedule: The noise schedule.
        latents_KL: Standardized latents, encoded once before this stage, because the autoencoder no longer changes.
        **options: The arguments of `SteppedModule`, except for `stage`.
    """

    def __init__(self, denoiser: nn.Module, schedule: NoiseSchedule, latents_KL: Tensor, **options: Any):
        super().__init__(latents_KL, stage="diffusion", **options)
        self.denoiser, self.schedule = denoiser, schedule

    def loss(self, rows_B: Tensor) -> Tensor:
        """Return `denoising_loss` of a batch of latents (B, L)."""
        return denoising_loss(self.denoiser, self.schedule, rows_B)

    def get_trained_parameters(self) -> Iterable[Parameter]:
        """Return the parameters of the denoiser."""
        return self.denoiser.parameters()
