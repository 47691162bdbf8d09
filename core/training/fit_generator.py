"""From checkpoints to p-diff's generator: fit the autoencoder, then the diffusion over its latents.

K checkpoints · D numbers in one flattened subset · L numbers in one latent.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from hydra.utils import instantiate
from pytorch_lightning import Callback
from pytorch_lightning.loggers import Logger
from torch import Tensor, nn

from core.checkpoints.checkpoint_set import CheckpointSet
from core.checkpoints.normalizer import Normalizer
from core.diffusion.gaussian_diffusion import NoiseSchedule
from core.generation.latent_diffusion import LatentDiffusionGenerator
from core.generation.recipes import check_recipe
from core.networks.autoencoder import Autoencoder
from core.runtime.progress import Stages
from core.runtime.seeding import derive_seed
from core.runtime.trainer import MakeTrainer, fit
from core.training.stage_modules import AutoencoderModule, LatentDiffusionModule, SteppedModule
from core.training.system import SystemSpec
from core.training.weight_average import WeightAverage


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
    """Fit both stages, each resumed or skipped where an earlier session got further.

    Args:
        system: How the stages are built and trained; without a denoiser there is no second stage.
        checkpoints: The vectors to learn.
        seed: Decides the result, together with the two above.
        state_dir: The folder of the training states.
        make_trainer: Lightning's Trainer with the machine's options bound.
        loggers: Of Lightning, besides metrics.jsonl.
        stages: Must know "autoencoder" and, with a denoiser, "diffusion"; receives their seconds.

    Raises:
        UserError: The generator could not be loaded from its file, or training diverges.
    """
    check_recipes(system)
    session = Session(seed, state_dir, make_trainer, loggers, stages)
    vectors_KD = checkpoints.vectors_KD
    normalizer = vector_normalizer(system, checkpoints)
    autoencoder = fit_autoencoder(system, vectors_KD, normalizer, session=session)
    latent_normalizer, denoiser = Normalizer.identity(autoencoder.latent_dim), None
    if system.denoiser:
        batches = (normalizer.normalize(batch) for batch in vectors_KD.split(system.batch_size))
        latents_KL = torch.cat([autoencoder.encode(batch) for batch in batches])  # once: it no longer changes
        if system.latent_normalization == "per_coordinate":
            latent_normalizer = Normalizer.per_coordinate(latents_KL)
        denoiser = fit_denoiser(system, latent_normalizer.normalize(latents_KL), session)
    return LatentDiffusionGenerator(
        recipes=system.recipes,
        subset=checkpoints.subset,
        normalizer=normalizer,
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


def vector_normalizer(system: SystemSpec, checkpoints: CheckpointSet) -> Normalizer:
    """Return the normalizer of the vectors that the system asks for."""
    if system.normalization == "per_tensor":
        return Normalizer.per_tensor(checkpoints.vectors_KD, checkpoints.subset)
    return Normalizer.identity(checkpoints.subset.num_params)


def check_recipes(system: SystemSpec) -> None:
    """Raise `UserError` for a network or a sampler that the file of the generator could not name."""
    recipes = [system.autoencoder]
    recipes += [system.denoiser] if system.denoiser else []
    recipes += [system.sampler["scheduler"]] if system.sampler else []
    for recipe in recipes:
        check_recipe(recipe)


@dataclass(frozen=True)
class Session:
    """The seed, places and tools that the stages of one call share."""

    seed: int
    state_dir: Path
    make_trainer: MakeTrainer
    loggers: Sequence[Logger]
    stages: Stages

    def fit(self, module: SteppedModule, callbacks: Sequence[Callback] = ()) -> float:
        """Fit the module of the current stage in place and return the seconds of all the sessions that it took."""
        return fit(
            module,
            name=module.stage,
            state_dir=self.state_dir,
            make_trainer=self.make_trainer,
            progress=self.stages.progress,
            loggers=self.loggers,
            callbacks=callbacks,
        )


def fit_autoencoder(system: SystemSpec, vectors_KD: Tensor, normalizer: Normalizer, *, session: Session) -> Autoencoder:
    """Return the autoencoder of stage one, frozen, in eval mode; one without parameters only adapts to the vectors."""
    seconds = None
    with session.stages.stage("autoencoder", f"{system.autoencoder_steps} steps"):
        torch.manual_seed(derive_seed(session.seed, "autoencoder/init"))
        autoencoder: Autoencoder = instantiate(system.autoencoder, num_params=vectors_KD.shape[1])
        prepared_K = autoencoder.adapt(
            lambda part: normalizer.columns(part).normalize(vectors_KD[:, part]), len(vectors_KD)
        )
        if list(autoencoder.parameters()):
            module = AutoencoderModule(
                autoencoder,
                vectors_KD if prepared_K is None else prepared_K,
                normalizer if prepared_K is None else None,
                make_optimizer=instantiate(system.autoencoder_optimizer),
                num_steps=system.autoencoder_steps,
                batch_size=system.batch_size,
                seed=session.seed,
                compile_mode=system.compile,
            )
            seconds = session.fit(module)
    if seconds is not None:
        session.stages.seconds["autoencoder"] = seconds  # over all the sessions it took
    return autoencoder.eval().requires_grad_(False)


def fit_denoiser(system: SystemSpec, latents_KL: Tensor, session: Session) -> nn.Module:
    """Return the denoiser of stage two, over standardized latents (K, L), with the average of its weights."""
    with session.stages.stage("diffusion", f"{system.diffusion_steps} steps"):
        torch.manual_seed(derive_seed(session.seed, "diffusion/init"))
        module = LatentDiffusionModule(
            instantiate(system.denoiser, latent_dim=latents_KL.shape[1]),
            NoiseSchedule(**system.schedule),
            latents_KL,
            make_optimizer=instantiate(system.denoiser_optimizer),
            num_steps=system.diffusion_steps,
            batch_size=system.batch_size,
            seed=session.seed,
            compile_mode=system.compile,
        )
        seconds = session.fit(module, [WeightAverage(system.ema_decay)])
    session.stages.seconds["diffusion"] = seconds
    return module.denoiser
