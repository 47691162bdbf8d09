"""A training step under Lightning against a bare loop of the same network and optimizer; and that loop compiled."""

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
COMPILED = ("autoencoder, small", "denoiser, mlp")  # the defaults
SHARED: dict[str, Any] = {
    "make_optimizer": partial(torch.optim.AdamW, lr=1e-3, fused=True),
    "batch_size": 50,
    "seed": 0,
}


def autoencoder(channels: tuple[int, ...], **options: Any) -> SteppedModule:
    """Return stage one on random vectors."""
    return AutoencoderModule(ConvAutoencoder(D, channels), torch.randn(K, D), **SHARED, **options)


def diffusion(make_denoiser: Callable[[int], nn.Module], **options: Any) -> SteppedModule:
    """Return stage two on random latents."""
    return LatentDiffusionModule(make_denoiser(L), NoiseSchedule(), torch.randn(K, L), **SHARED, **options)


def contests(device: torch.device) -> Iterator[Contest]:
    """Yield small and paper-size networks of both stages."""
    cases = {
        "autoencoder, small": (partial(autoencoder, (8, 16, 32, 64, 32)), 40),
        "autoencoder, paper": (partial(autoencoder, (64, 128, 256, 256, 32)), 5),
        "denoiser, mlp": (partial(diffusion, partial(MLPDenoiser, hidden_dim=256)), 800),
        "denoiser, conv": (partial(diffusion, ConvDenoiser), 8),
    }
    for case, (make, num_steps) in cases.items():
        yield Contest(
            "training",
            case,
            "step, batch 50",
            ours=partial(with_lightning, make, num_steps, device),
            reference=partial(bare_loop, make, num_steps, device),
            our_units=num_steps,
            reference_units=num_steps,
        )
        if case not in COMPILED:
            continue
        compiled = make(num_steps=num_steps, compile_mode="default")  # once, so that later calls find it compiled
        yield Contest(
            "training",
            f"{case}: compiled against eager",
            "step, batch 50",
            ours=partial(bare_loop, lambda num_steps, module=compiled: module, num_steps, device),
            reference=partial(bare_loop, make, num_steps, device),
            our_units=num_steps,
            reference_units=num_steps,
        )


def with_lightning(make: Callable[..., SteppedModule], num_steps: int, device: torch.device) -> None:
    """Train as the pipeline does, files and progress bar included."""
    module = make(num_steps=num_steps)
    # the progress bar would end up among the results
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        make_trainer = partial(Trainer, accelerator="cpu" if device.type == "cpu" else "gpu", devices=1)
        fit(module, name="benchmark", state_dir=Path(folder) / "state", make_trainer=make_trainer)


def bare_loop(make: Callable[..., SteppedModule], num_steps: int, device: torch.device) -> None:
    """Train the same network by the least that does: draw a batch, loss, gradient, step."""
    module = make(num_steps=num_steps).to(device).train()
    optimizer = module.make_optimizer(module.trained_parameters())
    for _ in range(num_steps):
        rows = torch.randperm(K, device=device)[:50]
        optimizer.zero_grad()
        module.batch_loss(module.rows_K[rows]).backward()
        optimizer.step()
