"""The `system` configuration as typed values, and the settings that decide a trained generator."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch

from core.checkpoints.checkpoint_set import CheckpointSet
from core.diffusion.gaussian_diffusion import NoiseSchedule
from core.generation.recipes import Recipe, build, build_sampler
from core.runtime.errors import UserError, suggest_names

CHOICES = {
    "normalization": ("per_tensor", "none"),
    "latent_normalization": ("per_coordinate", "none"),
    "learning_rate_schedule": ("cosine", "constant"),
}
# Settings that older runs did not record, with the only value that they could have.
ADDED_SETTINGS = {
    "learning_rate_schedule": "cosine",
    "autoencoder.activation": "elu",
    "autoencoder.second_linear": False,
    "denoiser.learn_time": False,
    "denoiser.residual": True,
}


@dataclass(frozen=True)
class SystemSpec:
    """The settings by which the two stages of p-diff are built and trained.

    A `Recipe` names a class and its arguments, which Hydra instantiates. configs/system/ae_ddpm.yaml explains every
    setting.

    Raises:
        UserError: `normalization`, `latent_normalization` or `learning_rate_schedule` is unknown.
    """

    autoencoder: Recipe
    denoiser: Recipe | None  # None draws latents from N(0, I), without a second stage
    sampler: Mapping[str, Any] | None  # "num_steps" and the recipe "scheduler"; None without a denoiser
    name: str
    batch_size: int
    compile: str | None  # a mode of torch.compile
    normalization: str  # normalization of the vectors
    latent_normalization: str  # normalization of the latents before diffusion
    schedule: Mapping[str, Any]  # the arguments of NoiseSchedule
    autoencoder_steps: int
    autoencoder_optimizer: Recipe
    diffusion_steps: int
    denoiser_optimizer: Recipe
    learning_rate_schedule: str  # the schedule of both optimizers
    ema_decay: float | None  # decay of the averaged weights of the denoiser; None samples with the last weights

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "SystemSpec":
        """Build the specification from a `system` configuration of plain values.

        Raises:
            UserError: A setting is missing or unknown, or a setting of `CHOICES` has an unknown value.
        """
        known = [field.name for field in fields(cls)]
        for name in config:
            if name not in known:
                raise UserError(f"system.{name} is unknown; {suggest_names(name, known)}")
        for name in known:
            if name not in config:
                raise UserError(
                    f"system.{name} is missing. Set system.{name}=VALUE, for example the value in "
                    "configs/system/ae_ddpm.yaml"
                )
        return cls(**config)

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise UserError(
                    f"system.{name}={getattr(self, name)} is invalid: expected one of {', '.join(choices)}. "
                    f"Set system.{name}={choices[0]}"
                )

    def check(self, num_params: int) -> None:
        """Find a setting that would fail later, before anything is trained or moved.

        The networks are built without memory for their weights (on the device "meta"), and the sampler is tried.

        Args:
            num_params: D, the parameters of one vector.

        Raises:
            UserError: A network, the noise schedule or the sampler refuses its settings.
        """
        schedule = NoiseSchedule(**self.schedule)
        num_timesteps = schedule.num_timesteps
        with torch.device("meta"):
            autoencoder = build(self.autoencoder, num_params=num_params)
            if self.denoiser:
                denoiser = build(self.denoiser, latent_dim=autoencoder.latent_dim)
                if getattr(denoiser, "num_timesteps", num_timesteps) < num_timesteps:
                    raise UserError(
                        f"system.denoiser.num_timesteps={denoiser.num_timesteps} is less than "
                        f"system.schedule.num_timesteps={num_timesteps}. Set both to the same number"
                    )
        if self.denoiser and self.sampler:
            build_sampler(self.sampler, schedule).check()

    @property
    def recipes(self) -> dict[str, Any]:
        """The settings that a generator file stores, because the generator is rebuilt from them."""
        settings = asdict(self)
        return {name: settings[name] for name in ("autoencoder", "denoiser", "schedule", "sampler")}


def select_training_settings(system: SystemSpec, checkpoints: CheckpointSet, seed: int) -> dict[str, Any]:
    """Return the settings that decide the trained generator; the sampler may change after training.

    A setting of `ADDED_SETTINGS` is left out if it has the value of older runs, which do not have this setting.
    """
    trained = asdict(system)
    del trained["sampler"]
    for dotted, value in ADDED_SETTINGS.items():
        section, _, name = dotted.rpartition(".")
        settings = trained[section] if section else trained
        if settings and settings.get(name) == value:
            del settings[name]
    return {
        "seed": seed,
        "task": {"param": {"k": len(checkpoints)}},
        "checkpoints": checkpoints.fingerprint,
        "system": trained,
    }
