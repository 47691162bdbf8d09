"""Plain pieces that the tests of `core` import: the sampler files, a crash on demand, damaged files."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import nn

from core.runtime.provenance import ROOT

CONFIGS = ROOT / "configs"
SAMPLERS = sorted(path.stem for path in (CONFIGS / "system/sampler").glob("*.yaml"))


def sampler_recipe(name: str) -> dict[str, Any]:
    """configs/system/sampler/<name>.yaml as plain values."""
    return OmegaConf.to_container(OmegaConf.load(CONFIGS / f"system/sampler/{name}.yaml"))


def randomize(model: nn.Module) -> nn.Module:
    """Take a network away from its special beginning, as training would; in eval mode.

    BatchNorm statistics then differ from those of any batch, and layers that start at zero no longer hide the others.
    """
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


class StopAfter(Callback):
    """Ends a fit as a crash or Ctrl-C would, after that many optimizer steps."""

    def __init__(self, steps: int, error: type[BaseException] = RuntimeError):
        self.steps, self.error = steps, error

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        if trainer.global_step == self.steps:
            raise self.error("stopped by the test")


def damaged_copies(path: Path) -> Iterator[tuple[str, bytes]]:
    """What a crash, a full disk or a wrong download leaves of a file: (how, content)."""
    whole = path.read_bytes()
    yield "empty", b""
    yield "cut inside the header", whole[:20]
    yield "half", whole[: len(whole) // 2]
    yield "last byte missing", whole[:-1]
    yield "other content", b"<html>404 Not Found</html>" * 20
