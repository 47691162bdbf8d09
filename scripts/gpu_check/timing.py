"""Timers for steps under Lightning and for plain calls, which read the clock only when the device is idle."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from core.runtime.precision import set_float32_precision
from core.runtime.trainer import MakeTrainer, fit, make_trainer
from scripts.benchmark.contest import synchronize
from scripts.gpu_check.subjects import Stage

TRAINER_PRECISIONS = ("32-true", "tf32", "bf16-mixed")
SCORING_PRECISIONS = ("fp32", "tf32", "bf16")


class Meter(Protocol):
    """An instrument that a loop switches on after its warm-up and off at its end."""

    def begin(self) -> None:
        """Start measuring."""

    def end(self) -> None:
        """Stop measuring."""


class Clock:
    """A meter of the seconds from `begin` to `end`."""

    def __init__(self, device: torch.device):
        self.device, self.seconds = device, 0.0

    def begin(self) -> None:
        """Wait until the device is idle, then start the clock."""
        synchronize(self.device)
        self._start = time.perf_counter()

    def end(self) -> None:
        """Wait until the device is idle, then stop the clock."""
        synchronize(self.device)
        self.seconds = time.perf_counter() - self._start


class Window(Callback):
    """A callback that switches a meter on after `warmup` steps of a fit, and off after `steps` more."""

    def __init__(self, warmup: int, steps: int, meter: Meter):
        self.warmup, self.steps, self.meter = warmup, steps, meter

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        """Switch the meter on or off when the fit reaches one of the two steps."""
        if trainer.global_step == self.warmup:
            self.meter.begin()
        elif trainer.global_step == self.warmup + self.steps:
            self.meter.end()


def configure_trainer(device: torch.device, precision: str) -> MakeTrainer:
    """Return a factory of the pipeline's Trainers for one device and precision."""
    return partial(make_trainer, accelerator="cpu" if device.type == "cpu" else "cuda", devices=1, precision=precision)


def fit_stage(stage: Stage, window: Window, device: torch.device, *, precision: str) -> None:
    """Fit a stage as the pipeline does, including its files and its progress bar."""
    module, callbacks = stage
    with tempfile.TemporaryDirectory() as folder:
        state_dir = Path(folder) / "training_state"
        fit(
            module,
            name=module.stage,
            state_dir=state_dir,
            make_trainer=configure_trainer(device, precision),
            callbacks=[*callbacks, window],
        )


@contextmanager
def computing_in(precision: str, device: torch.device) -> Iterator[None]:
    """Compute in one of the Trainer's precisions without a Trainer."""
    with (
        set_float32_precision(tf32=precision != "32-true"),
        torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-mixed"),
    ):
        yield


def time_bare_steps(stage: Stage, warmup: int, steps: int, *, device: torch.device, precision: str) -> float:
    """Return the seconds of `steps` training steps without Lightning: batch, loss, gradient, optimizer step."""
    module, _ = stage
    module.to(device).train()
    optimizer, clock = module.make_optimizer(module.get_trained_parameters()), Clock(device)
    for step in range(warmup + steps):
        if step == warmup:
            clock.begin()
        optimizer.zero_grad()
        with computing_in(precision, device):
            loss = module.batch_loss(module.draw_batch())
        loss.backward()
        optimizer.step()
    clock.end()
    return clock.seconds
