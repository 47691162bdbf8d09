"""Helpers of the tests: a network with two norms, 12 checkpoints of it, a diffusion stage, crashes, damaged files."""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import AdamW

from core.checkpoints.checkpoint_set import CheckpointSet
from core.checkpoints.subset import flatten, resolve_subset
from core.checkpoints.vector_rows import VectorRows
from core.diffusion.gaussian_diffusion import NoiseSchedule
from core.networks.denoiser import ConvDenoiser
from core.runtime.provenance import ROOT
from core.runtime.trainer import MakeTrainer
from core.training.stage_modules import LatentDiffusionModule

CONFIGS = ROOT / "configs"
# The sampler of the first release is left out, because it samples only numbers between -1 and 1.
SAMPLERS = sorted(path.stem for path in (CONFIGS / "system/sampler").glob("*.yaml") if path.stem != "release1")
K = 12


def sampler_recipe(name: str) -> dict[str, Any]:
    """Return configs/system/sampler/<name>.yaml as plain values."""
    return OmegaConf.to_container(OmegaConf.load(CONFIGS / f"system/sampler/{name}.yaml"))


def randomize(model: nn.Module) -> nn.Module:
    """Change all weights and BatchNorm statistics at random, and return the model in eval mode.

    Running statistics then differ from batch statistics, and layers that start at zero hide no errors in other layers.
    """
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def make_network() -> nn.Sequential:
    """Return a network whose last two norms have 2 · 14 + 2 · 16 = 60 parameters."""
    return nn.Sequential(
        nn.Linear(6, 14), nn.BatchNorm1d(14), nn.ReLU(), nn.Linear(14, 16), nn.LayerNorm(16), nn.Linear(16, 3)
    ).eval()


def make_checkpoints(network: nn.Module) -> CheckpointSet:
    """Return K different checkpoints near the network's own weights, each with another accuracy."""
    subset = resolve_subset(network, "last_norms", count=2)
    return CheckpointSet(
        rows=VectorRows([flatten(network, subset) + 0.1 * torch.randn(K, subset.num_params)]),
        accuracy_K=torch.linspace(0.5, 0.9, K, dtype=torch.float64),
        subset=subset,
        network={name: tensor.clone() for name, tensor in network.state_dict().items()},
        settings={"task": {"seed": 0, "model": {"name": "tiny"}}},
        provenance={"seconds": {"collect": 1.0}, "accuracy_split": "val"},
    )


def make_diffusion_module(denoiser: nn.Module | None = None, *, num_steps: int) -> LatentDiffusionModule:
    """Return the module of a diffusion stage over 9 latents of 6 numbers, the same at every call.

    The default denoiser has BatchNorm statistics, so that averaging and resuming have buffers to handle, too.
    """
    torch.manual_seed(1)
    denoiser = denoiser or ConvDenoiser(6, channels=(4, 8, 4, 1), kernel_size=3)
    return LatentDiffusionModule(
        denoiser,
        NoiseSchedule(50),
        torch.randn(9, 6),
        make_optimizer=partial(AdamW, lr=1e-2),
        num_steps=num_steps,
        batch_size=4,
        seed=0,
    )


def cpu_trainer(*extra: Callback) -> MakeTrainer:
    """Return a Trainer factory on the CPU for `fit`, with `extra` callbacks before the callbacks of `fit`."""

    def make(*, callbacks: list[Callback], **options: Any) -> Trainer:
        return Trainer(accelerator="cpu", devices=1, callbacks=[*extra, *callbacks], **options)

    return make


def assert_same(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Assert that two state dicts are equal bit by bit."""
    assert state.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(state[name], expected[name], rtol=0, atol=0, msg=partial("{}: {}".format, name))


class StopAfter(Callback):
    """A callback that ends a fit after `steps` optimizer steps, as a crash or Ctrl-C would."""

    def __init__(self, steps: int, error: type[BaseException] = RuntimeError):
        self.steps, self.error = steps, error

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        if trainer.global_step == self.steps:
            raise self.error("stopped by the test")


def damaged_copies(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (damage, content) for what a crash, a full disk or a wrong download leaves of a file."""
    whole = path.read_bytes()
    yield "empty", b""
    yield "cut inside the header", whole[:20]
    yield "half", whole[: len(whole) // 2]
    yield "last byte missing", whole[:-1]
    yield "other content", b"<html>404 Not Found</html>" * 20


def change_array(path: Path, name: str) -> None:
    """Flip one bit in an array of an npz file and keep the archive valid, so that its own checksums notice nothing."""
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    arrays[name].reshape(-1).view(np.uint8)[0] ^= 1
    np.savez(path, **arrays)


class ZeroDenoiser:
    """A denoiser that always predicts zero noise and records its inputs."""

    def __init__(self):
        self.inputs = []

    def __call__(self, x_BL, t_B):
        self.inputs.append((x_BL, t_B))
        return torch.zeros_like(x_BL)
