"""Contests of training: a step under Lightning against a bare loop, and a compiled loop against an eager one."""

import io
import tempfile
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Trainer
from torch import nn

from core.diffusion.gaussian_diffusion import NoiseSchedule
from core.networks.autoencoder import ConvAutoencoder
from core.networks.denoiser import ConvDenoiser, MLPDenoiser
from core.runtime.trainer import fit
from core.training.stage_modules import AutoencoderModule, LatentDiffusionModule, SteppedModule
from scripts.benchmark.contest import Contest

K, D, L = 200, 2048, 128
COMPILED = ("autoencoder, small", "denoiser, mlp")  # the default networks
SHARED: dict[str, Any] = {
    "make_optimizer": partial(torch.optim.AdamW, lr=1e-3, fused=True),
    "batch_size": 50,
    "seed": 0,
}


def make_autoencoder_module(channels: tuple[int, ...], **options: Any) -> SteppedModule:
    """Return the module of the autoencoder stage on random vectors (K, D)."""
    return AutoencoderModule(ConvAutoencoder(D, channels), torch.randn(K, D), **SHARED, **options)


def make_diffusion_module(make_denoiser: Callable[[int], nn.Module], **options: Any) -> SteppedModule:
    """Return the module of the diffusion stage on random latents (K, L)."""
    return LatentDiffusionModule(make_denoiser(L), NoiseSchedule(), torch.randn(K, L), **SHARED, **options)


def make_contests(device: torch.device) -> Iterator[Contest]:
    """Yield contests of both stages, with the default networks and with the paper's."""
    cases = {
        "autoencoder, small": (partial(make_autoencoder_module, (8, 16, 32, 64, 32)), 40),
        "autoencoder, paper": (partial(make_autoencoder_module, (64, 128, 256, 256, 32)), 5),
        "denoiser, mlp": (partial(make_diffusion_module, partial(MLPDenoiser, hidden_dim=256)), 800),
        "denoiser, conv": (partial(make_diffusion_module, ConvDenoiser), 8),
    }
    for case, (make, num_steps) in cases.items():
        yield Contest(
            "training",
            case,
            "step, batch 50",
            ours=partial(train_with_lightning, make, num_steps, device),
            reference=partial(train_with_bare_loop, make, num_steps, device),
            our_units=num_steps,
            reference_units=num_steps,
        )
        if case not in COMPILED:
            continue
        compiled = make(num_steps=num_steps, compile_mode="default")  # made once, so that only the warm-up compiles
        yield Contest(
            "training",
            f"{case}: compiled against eager",
            "step, batch 50",
            ours=partial(train_with_bare_loop, lambda num_steps, module=compiled: module, num_steps, device),
            reference=partial(train_with_bare_loop, make, num_steps, device),
            our_units=num_steps,
            reference_units=num_steps,
        )


def train_with_lightning(make: Callable[..., SteppedModule], num_steps: int, device: torch.device) -> None:
    """Train as the pipeline does, including its files and its progress bar."""
    module = make(num_steps=num_steps)
    # Progress bars on stdout would end up among the tables.
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        make_trainer = partial(Trainer, accelerator="cpu" if device.type == "cpu" else "gpu", devices=1)
        fit(module, name="benchmark", state_dir=Path(folder) / "state", make_trainer=make_trainer)


def train_with_bare_loop(make: Callable[..., SteppedModule], num_steps: int, device: torch.device) -> None:
    """Train the same network in a minimal loop: batch, loss, gradient, optimizer step."""
    module = make(num_steps=num_steps).to(device).train()
    optimizer = module.make_optimizer(module.get_trained_parameters())
    for _ in range(num_steps):
        optimizer.zero_grad()
        module.batch_loss(module.draw_batch()).backward()
        optimizer.step()
