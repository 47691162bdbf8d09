"""The LightningModules of the two stages: the parameter autoencoder, then a DDPM over its latents.

K checkpoints · B batch · D numbers in one flattened subset · L numbers in one latent.
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
    """Training by a fixed number of steps over K rows held in memory; the learning rate falls along a cosine.

    Every step reseeds from (seed, stage, step), so that a resumed run equals an unbroken one (EDM2's habit), and
    draws its batch itself, so that no loader stands between the data and the device.

    Args:
        rows_K: The data, shape (K, …).
        stage: The name of the stage in logs and seeds.
        make_optimizer: An optimizer with its options bound.
        num_steps: At least 1.
        batch_size: At least 2, since networks normalize over the batch. `core.command_line.ranges` holds both ranges.
        seed: Decides, with the stage and the step, every random draw.
        compile_mode: The mode of `torch.compile` for the loss ("default"; "reduce-overhead" uses CUDA graphs); None
            runs the loss as it is.
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
    ):
        super().__init__()
        self.register_buffer("rows_K", rows_K, persistent=False)
        self.stage, self.make_optimizer = stage, make_optimizer
        self.num_steps, self.batch_size, self.seed = num_steps, batch_size, seed
        self.compiled_loss = torch.compile(self.loss, mode=compile_mode) if compile_mode else None

    def loss(self, rows_B: Tensor) -> Tensor:
        """Return the objective on one batch."""
        raise NotImplementedError

    def batch_loss(self, rows_B: Tensor) -> Tensor:
        """Return `loss`, compiled where that was asked for."""
        return (self.compiled_loss or self.loss)(rows_B)

    def trained_parameters(self) -> Iterable[Parameter]:
        """Return the parameters that the optimizer moves."""
        raise NotImplementedError

    def train_dataloader(self) -> DataLoader[int]:
        """Return a loader of step numbers: the batch itself is drawn on the device."""
        return DataLoader(range(self.num_steps), batch_size=None)  # type: ignore[arg-type]  # any sequence serves

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed the step by its number."""
        reseed(derive_seed(self.seed, self.stage, self.global_step), self.device)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss of a batch drawn without replacement."""
        rows = torch.randperm(len(self.rows_K), device=self.device)[: self.batch_size]
        loss = self.batch_loss(self.rows_K[rows])
        self.report(f"{self.stage}/loss", loss)
        return loss

    def on_train_end(self) -> None:
        """Raise `UserError` for weights that are not finite, since the last steps may have led there."""
        for name, tensor in self.state_dict().items():
            if not torch.isfinite(tensor).all():
                raise UserError(
                    f"{self.stage}: {name} is not finite after {self.global_step} steps; try a smaller learning rate"
                )

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the optimizer, and the cosine that its learning rate follows step by step."""
        optimizer = self.make_optimizer(self.trained_parameters())
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": CosineAnnealingLR(optimizer, T_max=self.num_steps), "interval": "step"},
        }


class AutoencoderModule(SteppedModule):
    """Stage one: reconstruct normalized vectors through noise (p-diff, Eq. 3–4); the target is the clean vector.

    Args:
        autoencoder: The network that is trained.
        rows_K: The rows that its `training_loss` takes, or the vectors (K, D) that become them once normalized.
        normalizer: Applied to every batch, so that a memory-mapped K × D is never copied as a whole; None where the
            rows are ready.
        **options: The arguments of `SteppedModule`.
    """

    def __init__(self, autoencoder: Autoencoder, rows_K: Tensor, normalizer: Normalizer | None = None, **options: Any):
        super().__init__(rows_K, stage="autoencoder", **options)
        self.autoencoder, self.normalizer = autoencoder, normalizer

    def loss(self, rows_B: Tensor) -> Tensor:
        """Return the loss that the autoencoder itself defines."""
        return self.autoencoder.training_loss(self.normalizer.normalize(rows_B) if self.normalizer else rows_B)

    def trained_parameters(self) -> Iterable[Parameter]:
        """Return those of the autoencoder."""
        return self.autoencoder.parameters()


class LatentDiffusionModule(SteppedModule):
    """Stage two: learn to predict the noise in noised latents.

    The standardized latents (K, L) are encoded once, since the autoencoder no longer changes.
    """

    def __init__(self, denoiser: nn.Module, schedule: NoiseSchedule, latents_KL: Tensor, **options: Any):
        super().__init__(latents_KL, stage="diffusion", **options)
        self.denoiser, self.schedule = denoiser, schedule

    def loss(self, rows_B: Tensor) -> Tensor:
        """Return the denoising loss."""
        return denoising_loss(self.denoiser, self.schedule, rows_B)

    def trained_parameters(self) -> Iterable[Parameter]:
        """Return those of the denoiser."""
        return self.denoiser.parameters()
