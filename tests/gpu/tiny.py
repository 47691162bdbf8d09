"""Training of both stages over 12 tiny checkpoints on any device, with the real configuration."""

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from core.checkpoints.checkpoint_set import CheckpointSet
from core.generation.latent_diffusion import LatentDiffusionGenerator
from core.runtime.progress import Stages
from core.training.fit_generator import fit_generator
from core.training.system import SystemSpec
from tests.core.tiny import CONFIGS, make_checkpoints, make_network

SHRUNK = (
    "system.autoencoder.channels=[4,8]", "system.autoencoder.latent_dim=6", "system.batch_size=5",
    "system.autoencoder_steps=24", "system.diffusion_steps=23", "system.ema_decay=0.8",
)  # fmt: skip
MLP = ("system.denoiser.hidden_dim=16", "system.denoiser.num_blocks=1")
CONV = ("system/denoiser=conv", "system.denoiser.channels=[4,8,4,1]")


def configuration(device, *overrides, trainer=None) -> DictConfig:
    """Return the composed configuration with a file of configs/trainer, by default the one for `device`."""
    chosen = trainer or ("cpu" if device.type == "cpu" else "gpu")
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("base", overrides=[f"trainer={chosen}", *overrides])


def checkpoints() -> CheckpointSet:
    """Return 12 checkpoints of 60 parameters."""
    torch.manual_seed(0)
    return make_checkpoints(make_network())


def train(folder, device, *overrides, denoiser=MLP, extra=()) -> LatentDiffusionGenerator:
    """Fit both stages on `device` with the callbacks `extra` added to their own; return the generator."""
    cfg = configuration(device, *SHRUNK, *denoiser, *overrides)
    configured = instantiate(cfg.trainer)

    def make_trainer(*, callbacks, **options):
        return configured(callbacks=[*extra, *callbacks], **options)

    stages = Stages(["autoencoder", "diffusion"])
    return fit_generator(
        SystemSpec.from_config(OmegaConf.to_container(cfg.system, resolve=True)),
        checkpoints(),
        seed=0,
        state_dir=folder / "training_state",
        make_trainer=make_trainer,
        loggers=[],
        stages=stages,
    )
