"""The `system` configuration as typed values, and what of it decides a trained generator."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from core.checkpoints.checkpoint_set import CheckpointSet
from core.generation.recipes import Recipe
from core.runtime.errors import UserError, nearest

CHOICES = {"normalization": ("per_tensor", "none"), "latent_normalization": ("per_coordinate", "none")}


@dataclass(frozen=True)
class SystemSpec:
    """How p-diff's two stages are built and trained; a `Recipe` is what Hydra instantiates.

    Raises:
        UserError: There is no such normalization.
    """

    autoencoder: Recipe
    denoiser: Recipe | None  # None draws latents from N(0, I) instead of learning them
    sampler: Mapping[str, Any] | None  # "num_steps" and "scheduler", a recipe; None without a denoiser
    name: str
    batch_size: int
    compile: str | None  # a mode of torch.compile
    normalization: str
    latent_normalization: str
    schedule: Mapping[str, Any]  # the arguments of NoiseSchedule
    autoencoder_steps: int
    autoencoder_optimizer: Recipe
    diffusion_steps: int
    denoiser_optimizer: Recipe
    ema_decay: float

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "SystemSpec":
        """Return the specification that a `system` configuration describes, as plain values.

        Raises:
            UserError: A setting is missing or unknown, or there is no such normalization.
        """
        known = [field.name for field in fields(cls)]
        for name in config:
            if name not in known:
                raise UserError(f"system.{name} is no setting of a system; {nearest(name, known)}")
        for name in known:
            if name not in config:
                raise UserError(
                    f"system.{name} is missing; set system.{name}=VALUE as configs/system/ae_ddpm.yaml does"
                )
        return cls(**config)

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise UserError(f"system.{name}={getattr(self, name)}: expected one of {', '.join(choices)}")

    @property
    def recipes(self) -> dict[str, Any]:
        """The settings that a generator is built from, which its file therefore keeps."""
        settings = asdict(self)
        return {name: settings[name] for name in ("autoencoder", "denoiser", "schedule", "sampler")}


def training_settings(system: SystemSpec, checkpoints: CheckpointSet, seed: int) -> dict[str, Any]:
    """Return the settings that decide the trained generator; the sampler is none, it may be changed afterwards."""
    trained = asdict(system)
    del trained["sampler"]
    return {
        "seed": seed,
        "task": {"param": {"k": len(checkpoints)}},
        "checkpoints": checkpoints.fingerprint,
        "system": trained,
    }
