"""Fixtures that several tests of `core` share; tiny.py holds the helpers that they use."""

import copy
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from torch import nn

from core.checkpoints.checkpoint_set import CheckpointSet
from core.checkpoints.normalizer import Normalizer
from core.generation.latent_diffusion import LatentDiffusionGenerator
from core.networks.autoencoder import ConvAutoencoder
from core.networks.denoiser import MLPDenoiser
from core.runtime import trainer
from tests.core.tiny import CONFIGS, K, make_checkpoints, make_network, randomize

SHRUNK = {
    "autoencoder.channels": [4, 8],
    "autoencoder.latent_dim": 6,
    "denoiser.hidden_dim": 16,
    "denoiser.num_blocks": 1,
    "batch_size": 5,
    "autoencoder_steps": 24,
    "diffusion_steps": 23,
    "ema_decay": 0.8,
}


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    """Use one thread, because threads over tensors this small mostly wait: 20 times as long on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def save_state_after_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save training states at every step, because these fits end before the usual interval has passed."""
    monkeypatch.setattr(trainer, "SAVE_EVERY", timedelta(microseconds=1))


@pytest.fixture
def tiny_network() -> nn.Sequential:
    return make_network()


@pytest.fixture
def tiny_checkpoints(tiny_network: nn.Sequential) -> CheckpointSet:
    return make_checkpoints(tiny_network)


@pytest.fixture(scope="session")
def shrunk_system() -> DictConfig:
    """Return the shrunk system of `tiny_system`, composed once because that takes longer than most tests."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        choices = ["system=ae_ddpm", "system/autoencoder=small", "system/denoiser=mlp", "system/sampler=dpm_solver"]
        system = compose("base", overrides=choices).system
    for name, value in SHRUNK.items():
        OmegaConf.update(system, name, value)
    return system


@pytest.fixture
def tiny_system(shrunk_system: DictConfig) -> DictConfig:
    """Return configs/system/ae_ddpm.yaml with its default autoencoder, denoiser and sampler, at the sizes of SHRUNK."""
    return copy.deepcopy(shrunk_system)


@pytest.fixture
def tiny_generator(tiny_checkpoints: CheckpointSet, tiny_system: DictConfig) -> LatentDiffusionGenerator:
    """Return an untrained generator with non-trivial normalizers and BatchNorm statistics."""
    recipes = {
        name: OmegaConf.to_container(tiny_system[name]) for name in ("autoencoder", "denoiser", "schedule", "sampler")
    }
    subset = tiny_checkpoints.subset
    return LatentDiffusionGenerator(
        recipes=recipes,
        subset=subset,
        normalizer=Normalizer.per_tensor(tiny_checkpoints.vectors_KD, subset),
        latent_normalizer=Normalizer.per_coordinate(torch.randn(20, 6) * torch.arange(1, 7) + 3),
        autoencoder=randomize(ConvAutoencoder(subset.num_params, channels=(4, 8), latent_dim=6)),
        denoiser=randomize(MLPDenoiser(6, hidden_dim=16, num_blocks=1)),
        trained_on={"fingerprint": tiny_checkpoints.fingerprint, "k": K, "seed": 0, "seconds": {}},
    )


@pytest.fixture
def keep_signals() -> Iterator[None]:
    """Restore the Ctrl-C handler after the test, because Lightning ignores Ctrl-C for good after the first one."""
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.fixture
def full_disk() -> Callable[[], AbstractContextManager[None]]:
    """Return a context manager in which no file can grow beyond 64 kB; unlike file permissions, it also stops root."""

    @contextmanager
    def limited() -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited
