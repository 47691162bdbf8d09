"""The `system` configuration as typed values, and the settings that decide a trained generator."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from hydra.utils import instantiate

from core.checkpoints.checkpoint_set import CheckpointSet
from core.diffusion.gaussian_diffusion import NoiseSchedule
from core.generation.recipes import Recipe, build, build_sampler
from core.runtime.errors import UserError
from core.runtime.optimizers import try_optimizer
from core.runtime.settings import build_section, require_known

SAMPLER_SETTINGS = ("scheduler", "num_steps", "clamp_samples")
# Stands for a D that is not known yet. It is large, because the only sizes that a network refuses are too small ones.
NOMINAL_PARAMS = 2**20
CHOICES = {
    "compile": (None, "default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"),
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
        return build_section(cls, "system", config)

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                known = ["null" if choice is None else choice for choice in choices]
                raise UserError(
                    f"system.{name}={getattr(self, name)} is invalid: expected one of {', '.join(known)}. "
                    f"Set system.{name}={known[0]}"
                )

    def check(self, num_params: int = NOMINAL_PARAMS) -> None:
        """Find a setting that would fail later, before anything is trained or moved.

        The networks are built without memory for their weights (on the device "meta"), and the sampler is tried.

        Args:
            num_params: D, the parameters of one vector.

        Raises:
            UserError: A network, an optimizer, the noise schedule or the sampler refuses its settings.
        """
        try:
            schedule = NoiseSchedule(**self.schedule)
        except TypeError as error:
            raise UserError(f"system.schedule is invalid ({error}). Correct the settings of system.schedule") from error
        for stage in ("autoencoder", "denoiser"):
            name = f"{stage}_optimizer"
            try_optimizer(f"system.{name}", instantiate(getattr(self, name)))
        if self.denoiser and self.sampler:
            require_known("system.sampler", self.sampler, SAMPLER_SETTINGS)
            build_sampler(self.sampler, schedule).check()
        self._check_networks(num_params, schedule.num_timesteps)

    def _check_networks(self, num_params: int, num_timesteps: int) -> None:
        """Build the networks for vectors of D numbers on the device "meta"; raises `UserError` if one refuses."""
        with torch.device("meta"):
            autoencoder = build(self.autoencoder, num_params=num_params)
            if self.denoiser:
                denoiser = build(self.denoiser, latent_dim=autoencoder.latent_dim)
                if getattr(denoiser, "num_timesteps", num_timesteps) < num_timesteps:
                    raise UserError(
                        f"system.denoiser.num_timesteps={denoiser.num_timesteps} is less than "
                        f"system.schedule.num_timesteps={num_timesteps}. Set both to the same number"
                    )

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
