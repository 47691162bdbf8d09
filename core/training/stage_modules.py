"""The LightningModules of the two stages: the parameter autoencoder, and the DDPM over its latents.

K checkpoints · H held-out checkpoints · B batch · D parameters per vector · L numbers per latent · T timesteps ·
P pairs of a held-out latent and a timestep.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader

from core.checkpoints.normalizer import Normalizer
from core.checkpoints.vector_rows import VectorRows
from core.diffusion.gaussian_diffusion import NoiseSchedule, denoising_loss
from core.networks.autoencoder import Autoencoder
from core.runtime.reporting_module import ReportingModule
from core.runtime.seeding import derive_seed, reseed
from core.runtime.trainer import MakeOptimizer

# Pairs of a held-out latent and a timestep in one held-out loss of the diffusion, unless there are more latents. Their
# noise is fixed, so a few hundred pairs give a smooth curve, and they cost about as much as one training step.
MIN_HELD_OUT_PAIRS = 200


class SteppedModule(ReportingModule):
    """Training for a fixed number of steps on K rows.

    Step s of S has the learning rate lr · (1 + cos(π s / S)) / 2, or lr itself if the rate is constant. Every step
    seeds the random generators from (seed, stage, step), as EDM2 does, so that a resumed run gives the same weights as
    an uninterrupted one. It then draws its batch on the device, without a data loader.

    With held-out rows, every reading of the training loss is followed by a held-out loss, which changes no weight and
    no random number of the training.

    Args:
        rows_K: The data, shape (K, …). One tensor, or one shard, stays on the device. The rows of several shards are
            read from their files at every step, and only the batch is moved.
        stage: The name of the stage in logs and seeds.
        make_optimizer: An optimizer class with its options bound.
        num_steps: S, the number of optimizer steps, at least 1.
        batch_size: At least 2, because networks normalize over the batch. `core.command_line.ranges` checks both.
        seed: Decides all random numbers, together with the stage and the step.
        compile_mode: The mode of `torch.compile` for the loss, for example "default", or "reduce-overhead", which uses
            CUDA graphs. None does not compile.
        held_out_arguments: The arguments of `loss` for the held-out loss, each of shape (H, …). They stay on the CPU.
            Without arguments there is no held-out loss.
        learning_rate_schedule: "cosine" or "constant".
    """

    rows_K: Tensor | VectorRows

    def __init__(
        self,
        rows_K: Tensor | VectorRows,
        *,
        stage: str,
        make_optimizer: MakeOptimizer,
        num_steps: int,
        batch_size: int,
        seed: int,
        compile_mode: str | None = None,
        held_out_arguments: tuple[Tensor, ...] = (),
        learning_rate_schedule: str = "cosine",
    ):
        super().__init__()
        if isinstance(rows_K, VectorRows) and len(rows_K.shards) > 1:
            self.rows_K = rows_K
        else:
            rows_K = rows_K.to_tensor() if isinstance(rows_K, VectorRows) else rows_K
            self.register_buffer("rows_K", rows_K, persistent=False)
        self.held_out_arguments = held_out_arguments
        self.stage, self.make_optimizer = stage, make_optimizer
        self.num_steps, self.batch_size, self.seed = num_steps, batch_size, seed
        self.learning_rate_schedule = learning_rate_schedule
        self.compiled_loss = torch.compile(self.loss, mode=compile_mode) if compile_mode else None

    @property
    def network(self) -> nn.Module:
        """The network that is trained."""
        raise NotImplementedError

    def loss(self, rows_B: Tensor) -> Tensor:
        """Return the loss of a batch of rows (B, …)."""
        raise NotImplementedError

    def batch_loss(self, rows_B: Tensor) -> Tensor:
        """Return `loss` of a batch of rows (B, …), compiled if `compile_mode` was given."""
        return (self.compiled_loss or self.loss)(rows_B)

    def get_trained_parameters(self) -> Iterable[Parameter]:
        """Return the parameters for the optimizer."""
        return self.network.parameters()

    def train_dataloader(self) -> DataLoader[int]:
        """Return a loader of step numbers; `training_step` draws the batch."""
        return DataLoader(range(self.num_steps), batch_size=None)  # type: ignore[arg-type]  # a sequence is enough

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed the random generators for this step."""
        reseed(derive_seed(self.seed, self.stage, self.global_step), self.device)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Report and return the loss of a batch, and log the held-out loss if the loss of this step is read."""
        loss = self.batch_loss(self.draw_batch())
        self.report(f"{self.stage}/loss", loss)
        if self.held_out_arguments and self.reads_loss:
            self.log(f"{self.stage}/held_out_loss", self.measure_held_out_loss())
        return loss

    def draw_batch(self) -> Tensor:
        """Draw min(B, K) different rows, and return them on the device."""
        rows = torch.randperm(len(self.rows_K), device=self.device)[: self.batch_size]
        if isinstance(self.rows_K, VectorRows):
            return self.rows_K.take(rows).to(self.device)
        return self.rows_K[rows]

    @torch.no_grad()
    def measure_held_out_loss(self) -> Tensor:
        """Return `loss` averaged over the held-out rows, with the current weights.

        Every call draws the same noise, so that values of different steps can be compared. The layers are in eval mode.
        BatchNorm therefore uses its running statistics and does not change them.
        """
        count = len(self.held_out_arguments[0])
        gpus = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(gpus), layers_in_eval_mode(self.network):
            reseed(derive_seed(self.seed, f"{self.stage}/held_out"), self.device)
            losses = [
                self.loss(*(rows_B.to(self.device) for rows_B in batch)) * (len(batch[0]) / count)
                for batch in zip(*(rows_H.split(self.batch_size) for rows_H in self.held_out_arguments), strict=True)
            ]
            return torch.stack(losses).sum()

    def on_train_end(self) -> None:
        """Check the weights once more, because the last steps may have diverged after the last reported loss."""
        self.require_finite_weights()

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
        held_out_H: Held-out rows in the form of `rows_K`, or None.
        **options: The other arguments of `SteppedModule`, except for `stage`.
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        rows_K: Tensor | VectorRows,
        normalizer: Normalizer | None = None,
        *,
        held_out_H: Tensor | None = None,
        **options: Any,
    ):
        super().__init__(
            rows_K, stage="autoencoder", held_out_arguments=() if held_out_H is None else (held_out_H,), **options
        )
        self.autoencoder, self.normalizer = autoencoder, normalizer

    @property
    def network(self) -> nn.Module:
        """The autoencoder."""
        return self.autoencoder

    def loss(self, rows_B: Tensor) -> Tensor:
        """Return `Autoencoder.training_loss` of the normalized batch."""
        return self.autoencoder.training_loss(self.normalizer.normalize(rows_B) if self.normalizer else rows_B)


class LatentDiffusionModule(SteppedModule):
    """Stage two, which trains the denoiser to predict the noise in noised latents (Ho et al. 2020, Algorithm 1).

    Args:
        denoiser: The network to train.
        schedule: The noise schedule.
        latents_KL: Standardized latents, encoded once before this stage, because the autoencoder no longer changes.
        held_out_HL: Latents of held-out vectors, encoded and standardized by the same maps, or None.
        **options: The other arguments of `SteppedModule`, except for `stage`.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        schedule: NoiseSchedule,
        latents_KL: Tensor,
        *,
        held_out_HL: Tensor | None = None,
        **options: Any,
    ):
        arguments = () if held_out_HL is None else pair_with_timesteps(held_out_HL, schedule.num_timesteps)
        super().__init__(latents_KL, stage="diffusion", held_out_arguments=arguments, **options)
        self.denoiser, self.schedule = denoiser, schedule

    @property
    def network(self) -> nn.Module:
        """The denoiser."""
        return self.denoiser

    def loss(self, rows_B: Tensor, t_B: Tensor | None = None) -> Tensor:
        """Return `denoising_loss` of a batch of latents (B, L) at the timesteps (B,), or at random ones."""
        return denoising_loss(self.denoiser, self.schedule, rows_B, t_B)


def pair_with_timesteps(latents_HL: Tensor, num_timesteps: int) -> tuple[Tensor, Tensor]:
    """Return latents (P, L) and timesteps (P,) for a held-out loss that depends on no draw of timesteps.

    The timesteps are the middles of P equal parts of 0 … T − 1 (a stratified sample). All latents occur equally often,
    and the timesteps of each latent are evenly spaced.

    Args:
        latents_HL: The held-out latents.
        num_timesteps: T.
    """
    repeats = -(-MIN_HELD_OUT_PAIRS // len(latents_HL))
    num_pairs = repeats * len(latents_HL)
    t_P = (2 * torch.arange(num_pairs) + 1) * num_timesteps // (2 * num_pairs)
    return latents_HL.repeat(repeats, 1), t_P


@contextmanager
def layers_in_eval_mode(network: nn.Module) -> Iterator[None]:
    """Put all layers of a network into eval mode inside the block, but leave the mode of the network itself.

    An autoencoder adds its noises in training mode only, and a held-out loss needs them to be comparable with the loss
    of training.
    """
    layers = [layer for layer in network.modules() if layer is not network and layer.training]
    try:
        for layer in layers:
            layer.training = False
        yield
    finally:
        for layer in layers:
            layer.training = True
