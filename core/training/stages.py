"""From checkpoints to a generator: fit the autoencoder, then the diffusion over its latents."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import Logger
from torch import Tensor, nn

from core.checkpoints.checkpoint_set import CheckpointSet
from core.checkpoints.normalizer import Normalizer
from core.diffusion.objective import NoiseSchedule
from core.generation.generator import WeightGenerator, check_recipe
from core.runtime.errors import UserError
from core.runtime.progress import Stages
from core.runtime.seeding import derive_seed
from core.runtime.trainer import MakeTrainer, fit
from core.training.autoencoder_module import AutoencoderModule
from core.training.diffusion_module import LatentDiffusionModule
from core.training.weight_average import WeightAverage

RECIPES = ("autoencoder", "denoiser", "schedule", "sampler")  # of the system, that a generator is built from
CHOICES = {"normalization": ("per_tensor", "none"), "latent_normalization": ("per_coordinate", "none")}


def training_settings(system: DictConfig, checkpoints: CheckpointSet, seed: int) -> dict[str, Any]:
    """What decides the trained generator; the sampler does not, it may be changed afterwards."""
    trained = {name: value for name, value in OmegaConf.to_container(system).items() if name != "sampler"}
    return {
        "seed": seed,
        "task": {"param": {"k": len(checkpoints)}},
        "checkpoints": checkpoints.fingerprint,
        "system": trained,
    }


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
        system: the `system` configuration; without a denoiser, latents are drawn from N(0, I) instead of learned.
        stages: must know "autoencoder" and, with a denoiser, "diffusion"; receives their seconds.
    """
    check_choices(system)
    recipes: dict[str, Any] = {name: OmegaConf.to_container(system)[name] for name in RECIPES}
    for recipe in (recipes["autoencoder"], recipes["denoiser"], recipes["sampler"] and recipes["sampler"]["scheduler"]):
        if recipe:
            check_recipe(recipe)  # what no file could be loaded with should not be trained
    shared = {"state_dir": state_dir, "make_trainer": make_trainer, "loggers": loggers}
    vectors_KD = checkpoints.vectors_KD
    per_tensor = system.normalization == "per_tensor"
    normalizer = (
        Normalizer.per_tensor(vectors_KD, checkpoints.subset)
        if per_tensor
        else Normalizer.identity(vectors_KD.shape[1])
    )
    autoencoder = train_autoencoder(system, vectors_KD, normalizer, seed, stages, **shared)
    if system.denoiser:
        batches = (normalizer.normalize(batch) for batch in vectors_KD.split(system.batch_size))
        latents_KL = torch.cat(
            [autoencoder.encode(batch) for batch in batches]
        )  # once: the autoencoder no longer changes
        standardized = system.latent_normalization == "per_coordinate"
        latent_normalizer = (
            Normalizer.per_coordinate(latents_KL) if standardized else Normalizer.identity(latents_KL.shape[1])
        )
        denoiser = train_denoiser(system, latent_normalizer.normalize(latents_KL), seed, stages, **shared)
    else:
        latent_normalizer, denoiser = Normalizer.identity(autoencoder.latent_dim), None
    trained_on = {
        "fingerprint": checkpoints.fingerprint,
        "k": len(checkpoints),
        "seed": seed,
        "seconds": dict(stages.seconds),
    }
    return WeightGenerator(
        recipes, checkpoints.subset, normalizer, latent_normalizer, autoencoder, denoiser, trained_on
    )


def check_choices(system: DictConfig) -> None:
    """Raises `UserError` for a normalization that there is not."""
    for name, choices in CHOICES.items():
        if system[name] not in choices:
            raise UserError(f"system.{name}={system[name]}: expected one of {', '.join(choices)}")


def train_autoencoder(
    system: DictConfig, vectors_KD: Tensor, normalizer: Normalizer, seed: int, stages: Stages, **shared: Any
) -> nn.Module:
    """Stage one; an autoencoder without parameters only adapts to the vectors. Returns it frozen, in eval mode."""
    with stages.stage("autoencoder"):
        torch.manual_seed(derive_seed(seed, "autoencoder/init"))
        autoencoder = instantiate(system.autoencoder, num_params=vectors_KD.shape[1])
        prepared_K = autoencoder.adapt(
            lambda part: normalizer.columns(part).normalize(vectors_KD[:, part]), len(vectors_KD)
        )
        seconds = None
        if list(autoencoder.parameters()):
            module = AutoencoderModule(
                autoencoder,
                *((vectors_KD, normalizer) if prepared_K is None else (prepared_K,)),
                make_optimizer=instantiate(system.autoencoder_optimizer),
                num_steps=system.autoencoder_steps,
                batch_size=system.batch_size,
                seed=seed,
                compile_mode=system.compile,
            )
            seconds = fit(module, name="autoencoder", label=stages.label, **shared)
    if seconds is not None:
        stages.seconds["autoencoder"] = seconds  # over all the sessions it took
    return autoencoder.eval().requires_grad_(False)


def train_denoiser(system: DictConfig, latents_KL: Tensor, seed: int, stages: Stages, **shared: Any) -> nn.Module:
    """Stage two, over standardized latents. Returns the denoiser with the average of its weights."""
    with stages.stage("diffusion"):
        torch.manual_seed(derive_seed(seed, "diffusion/init"))
        module = LatentDiffusionModule(
            instantiate(system.denoiser, latent_dim=latents_KL.shape[1]),
            NoiseSchedule(**system.schedule),
            latents_KL,
            make_optimizer=instantiate(system.denoiser_optimizer),
            num_steps=system.diffusion_steps,
            batch_size=system.batch_size,
            seed=seed,
            compile_mode=system.compile,
        )
        seconds = fit(
            module, name="diffusion", label=stages.label, callbacks=[WeightAverage(system.ema_decay)], **shared
        )
    stages.seconds["diffusion"] = seconds
    return module.denoiser
