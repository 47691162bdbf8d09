"""From checkpoints to a generator: fit the autoencoder, then the diffusion over its latents."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import EMAWeightAveraging
from pytorch_lightning.loggers import Logger

from core.checkpoints.checkpoint_set import CheckpointSet
from core.checkpoints.normalizer import Normalizer
from core.diffusion.objective import NoiseSchedule
from core.generation.generator import WeightGenerator, check_recipe
from core.runtime.progress import Stages
from core.runtime.seeding import derive_seed
from core.runtime.trainer import MakeTrainer, fit
from core.training.autoencoder_module import AutoencoderModule
from core.training.diffusion_module import LatentDiffusionModule


def training_settings(system: DictConfig, checkpoints: CheckpointSet, seed: int) -> dict[str, Any]:
    """What decides the trained generator; the sampler does not, it may be changed afterwards."""
    trained = {name: value for name, value in OmegaConf.to_container(system).items() if name != "sampler"}
    return {"seed": seed, "task": {"param": {"k": len(checkpoints)}}, "checkpoints": checkpoints.fingerprint, "system": trained}


def train_generator(
    system: DictConfig,
    checkpoints: CheckpointSet,
    *,
    seed: int,
    state_dir: Path,
    make_trainer: MakeTrainer,
    loggers: Sequence[Logger],
    stages: Stages,
) -> WeightGenerator:
    """Both stages, each resumed or skipped where an earlier session got further.

    Args:
        system: the `system` configuration.
        stages: must know "autoencoder" and "diffusion"; receives their seconds.
    """
    recipes: dict[str, Any] = {name: OmegaConf.to_container(system[name]) for name in ("autoencoder", "denoiser", "schedule", "sampler")}
    for recipe in (recipes["autoencoder"], recipes["denoiser"], recipes["sampler"]["scheduler"]):
        check_recipe(recipe)  # what no file could be loaded with should not be trained
    shared = {"state_dir": state_dir, "make_trainer": make_trainer, "loggers": loggers}

    with stages.stage("autoencoder"):
        torch.manual_seed(derive_seed(seed, "autoencoder/init"))
        normalizer = Normalizer.per_tensor(checkpoints.vectors_KD, checkpoints.subset)
        vectors_KD = normalizer.normalize(checkpoints.vectors_KD)
        first = AutoencoderModule(
            instantiate(system.autoencoder, num_params=checkpoints.subset.num_params),
            vectors_KD,
            make_optimizer=instantiate(system.autoencoder_optimizer),
            num_steps=system.autoencoder_steps,
            batch_size=system.batch_size,
            seed=seed,
        )
        seconds = fit(first, first.train_dataloader(), name="autoencoder", label=stages.label, **shared)
    stages.seconds["autoencoder"] = seconds

    with stages.stage("diffusion"):
        torch.manual_seed(derive_seed(seed, "diffusion/init"))
        autoencoder = first.autoencoder.eval().requires_grad_(False)
        latents_KL = torch.cat([autoencoder.encode(batch) for batch in vectors_KD.split(system.batch_size)])
        latent_normalizer = Normalizer.per_coordinate(latents_KL)
        second = LatentDiffusionModule(
            instantiate(system.denoiser, latent_dim=autoencoder.latent_dim),
            NoiseSchedule(**system.schedule),
            latent_normalizer.normalize(latents_KL),
            make_optimizer=instantiate(system.denoiser_optimizer),
            num_steps=system.diffusion_steps,
            batch_size=system.batch_size,
            seed=seed,
        )
        average = EMAWeightAveraging(decay=system.ema_decay)  # puts the average into the module when the fit ends
        seconds = fit(second, second.train_dataloader(), name="diffusion", label=stages.label, callbacks=[average], **shared)
    stages.seconds["diffusion"] = seconds

    trained_on = {"fingerprint": checkpoints.fingerprint, "k": len(checkpoints), "seed": seed, "seconds": dict(stages.seconds)}
    return WeightGenerator(recipes, checkpoints.subset, normalizer, latent_normalizer, autoencoder, second.denoiser, trained_on)
