"""Training of p-diff's generator on K checkpoints: the autoencoder first, then the diffusion over its latents.

K checkpoints · H held-out checkpoints · D parameters per vector · L numbers per latent.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from hydra.utils import instantiate
from pytorch_lightning import Callback
from pytorch_lightning.loggers import Logger
from torch import Tensor, nn

from core.checkpoints.checkpoint_set import CheckpointSet
from core.checkpoints.normalizer import Normalizer
from core.checkpoints.vector_rows import VectorRows
from core.diffusion.gaussian_diffusion import NoiseSchedule
from core.generation.latent_diffusion import LatentDiffusionGenerator, count_vectors_per_pass
from core.generation.recipes import check_recipe
from core.networks.autoencoder import Autoencoder
from core.runtime.progress import Stages
from core.runtime.seeding import derive_seed
from core.runtime.trainer import MakeTrainer, fit
from core.training.stage_modules import AutoencoderModule, LatentDiffusionModule, SteppedModule
from core.training.system import SystemSpec
from core.training.weight_average import WeightAverage

# A held-out loss takes at most this many vectors, so that its many readings stay cheap compared with the training.
MAX_HELD_OUT = 100


def fit_generator(
    system: SystemSpec,
    checkpoints: CheckpointSet,
    *,
    seed: int,
    state_dir: Path,
    make_trainer: MakeTrainer,
    loggers: Sequence[Logger],
    stages: Stages,
) -> LatentDiffusionGenerator:
    """Fit both stages and return the generator.

    An interrupted stage is resumed from its training state in `state_dir`, and a finished stage is loaded from there.

    Args:
        system: How the stages are built and trained. Without a denoiser there is no second stage.
        checkpoints: The vectors to learn. Both stages and the encoding between them read the shards row by row or
            column by column, so the vectors need not fit into memory. Scoring is different: it holds all K × D numbers
            in memory (`CheckpointSet.vectors_KD`). If the set has held-out vectors for validation, both stages also log
            a held-out loss.
        seed: The result depends on `system`, `checkpoints` and this seed only.
        state_dir: The folder of the training states.
        make_trainer: Lightning's Trainer with the machine's options bound.
        loggers: Loggers of Lightning besides the one that writes metrics.jsonl.
        stages: Names the stages "autoencoder" and, with a denoiser, "diffusion"; their seconds are stored here.

    Raises:
        UserError: `system` has a class that generator files must not name (see `check_recipe`), or training diverges.
    """
    check_recipes(system)
    context = FitContext(seed, state_dir, make_trainer, loggers, stages)
    data = TrainingData(checkpoints.rows, select_held_out(checkpoints), make_vector_normalizer(system, checkpoints))
    autoencoder = fit_autoencoder(system, data, context)
    latent_normalizer, denoiser = Normalizer.identity(autoencoder.latent_dim), None
    if system.denoiser:
        latents_KL = torch.cat(
            [autoencoder.encode(batch) for batch in data.normalize_batches(data.rows, system.batch_size)]
        )
        held_out_HL = data.map_held_out(autoencoder.encode)
        if system.latent_normalization == "per_coordinate":
            latent_normalizer = Normalizer.per_coordinate(latents_KL)
        latents_KL = latent_normalizer.normalize(latents_KL)
        held_out_HL = None if held_out_HL is None else latent_normalizer.normalize(held_out_HL)
        denoiser = fit_denoiser(system, latents_KL, held_out_HL, context=context)
    return LatentDiffusionGenerator(
        recipes=system.recipes,
        subset=checkpoints.subset,
        normalizer=data.normalizer,
        latent_normalizer=latent_normalizer,
        autoencoder=autoencoder,
        denoiser=denoiser,
        trained_on={
            "fingerprint": checkpoints.fingerprint,
            "k": len(checkpoints),
            "seed": seed,
            "seconds": dict(stages.seconds),
        },
    )


def make_vector_normalizer(system: SystemSpec, checkpoints: CheckpointSet) -> Normalizer:
    """Return the normalizer of the parameter vectors that `system.normalization` names."""
    if system.normalization == "per_tensor":
        return Normalizer.per_tensor(checkpoints.rows, checkpoints.subset)
    return Normalizer.identity(checkpoints.subset.num_params)


def select_held_out(checkpoints: CheckpointSet) -> Tensor | None:
    """Return at most `MAX_HELD_OUT` evenly spaced vectors (H, D) of `validation_HD` without a copy; None for none."""
    vectors_HD = checkpoints.validation_HD
    if vectors_HD is None or not len(vectors_HD):
        return None
    return vectors_HD[:: -(-len(vectors_HD) // MAX_HELD_OUT)]


def check_recipes(system: SystemSpec) -> None:
    """Raise `UserError`, before training, if a generator file must not name a network or the sampler of `system`."""
    recipes = [system.autoencoder]
    recipes += [system.denoiser] if system.denoiser else []
    recipes += [system.sampler["scheduler"]] if system.sampler else []
    for recipe in recipes:
        check_recipe(recipe)


@dataclass(frozen=True)
class FitContext:
    """The arguments of `fit_generator` that both stages need."""

    seed: int
    state_dir: Path
    make_trainer: MakeTrainer
    loggers: Sequence[Logger]
    stages: Stages

    def fit(self, module: SteppedModule, callbacks: Sequence[Callback] = ()) -> float:
        """Fit the module of the current stage in place, and return its seconds, summed over all sessions."""
        return fit(
            module,
            name=module.stage,
            state_dir=self.state_dir,
            make_trainer=self.make_trainer,
            progress=self.stages.progress,
            loggers=self.loggers,
            callbacks=callbacks,
        )


@dataclass(frozen=True)
class TrainingData:
    """The vectors of a zoo, which need not fit into memory, with held-out ones and the normalizer of both."""

    rows: VectorRows
    held_out_HD: Tensor | None
    normalizer: Normalizer

    def normalize_columns(self, part: slice) -> Tensor:
        """Return some columns of the K normalized vectors, (K, columns)."""
        return self.normalizer.select_columns(part).normalize(self.rows.columns(part))

    def normalize_batches(self, rows: VectorRows, batch_size: int) -> Iterator[Tensor]:
        """Yield all rows normalized and in order, in batches (B, D) that fit into memory.

        Batches do not depend on the shards, because the rounding of an autoencoder may depend on the batch.
        """
        size = min(batch_size, count_vectors_per_pass(rows.shape[1]))
        for numbers_B in torch.arange(len(rows)).split(size):
            yield self.normalizer.normalize(rows.take(numbers_B))

    def map_held_out(self, function: Callable[[Tensor], Tensor]) -> Tensor | None:
        """Return what `function` makes of the normalized held-out vectors, batch by batch; None for no vectors."""
        if self.held_out_HD is None:
            return None
        return torch.cat(
            [function(batch) for batch in self.normalize_batches(VectorRows([self.held_out_HD]), MAX_HELD_OUT)]
        )


def fit_autoencoder(system: SystemSpec, data: TrainingData, context: FitContext) -> Autoencoder:
    """Fit the autoencoder of stage one to the vectors, and return it frozen and in eval mode.

    An autoencoder without trainable parameters, such as PCA, only adapts to the vectors.
    """
    seconds = None
    with context.stages.stage("autoencoder", f"{system.autoencoder_steps} steps"):
        torch.manual_seed(derive_seed(context.seed, "autoencoder/init"))
        autoencoder: Autoencoder = instantiate(system.autoencoder, num_params=data.rows.shape[1])
        prepared_K = autoencoder.adapt(data.normalize_columns, len(data.rows))
        if list(autoencoder.parameters()):
            module = AutoencoderModule(
                autoencoder,
                data.rows if prepared_K is None else prepared_K,
                data.normalizer if prepared_K is None else None,
                held_out_H=data.held_out_HD if prepared_K is None else data.map_held_out(autoencoder.prepare),
                make_optimizer=instantiate(system.autoencoder_optimizer),
                num_steps=system.autoencoder_steps,
                batch_size=system.batch_size,
                seed=context.seed,
                compile_mode=system.compile,
                learning_rate_schedule=system.learning_rate_schedule,
            )
            seconds = context.fit(module)
    if seconds is not None:
        context.stages.seconds["autoencoder"] = seconds  # replaces the seconds of this session
    return autoencoder.eval().requires_grad_(False)


def fit_denoiser(
    system: SystemSpec, latents_KL: Tensor, held_out_HL: Tensor | None, *, context: FitContext
) -> nn.Module:
    """Fit the denoiser of stage two to standardized latents (K, L), and return it with its averaged weights.

    Without `system.ema_decay` it has the weights of the last step.
    """
    with context.stages.stage("diffusion", f"{system.diffusion_steps} steps"):
        torch.manual_seed(derive_seed(context.seed, "diffusion/init"))
        module = LatentDiffusionModule(
            instantiate(system.denoiser, latent_dim=latents_KL.shape[1]),
            NoiseSchedule(**system.schedule),
            latents_KL,
            held_out_HL=held_out_HL,
            make_optimizer=instantiate(system.denoiser_optimizer),
            num_steps=system.diffusion_steps,
            batch_size=system.batch_size,
            seed=context.seed,
            compile_mode=system.compile,
            learning_rate_schedule=system.learning_rate_schedule,
        )
        averages = [] if system.ema_decay is None else [WeightAverage(system.ema_decay)]
        seconds = context.fit(module, averages)
    context.stages.seconds["diffusion"] = seconds  # replaces the seconds of this session
    return module.denoiser
