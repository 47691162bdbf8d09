"""Lightning's Trainer as the project uses it: precision, progress bar, loggers, fits resumed or skipped."""

import logging
import math
from collections.abc import Callable, Iterable, Sequence, Sized
from contextlib import ExitStack
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint, Timer, TQDMProgressBar
from pytorch_lightning.loggers import Logger
from torch import Tensor
from torch.multiprocessing import ProcessRaisedException
from torch.optim import Optimizer

from core.runtime.artifacts import load_artifact, save_artifact
from core.runtime.errors import UserError
from core.runtime.loggers import JsonLinesLogger
from core.runtime.precision import float32_products
from core.runtime.quiet import quiet_lightning

log = logging.getLogger(__name__)
MakeTrainer = Callable[..., Trainer]
MakeOptimizer = Callable[[Iterable[Tensor]], Optimizer]
TF32 = "tf32"
PRECISIONS = (TF32, "32-true", "bf16-mixed", "16-mixed")
LOOKS_PER_FIT = 100  # how often a fit by steps reads its loss: each look waits for the device
SAVE_EVERY = timedelta(seconds=30)  # save interval for fits by steps: bounds the work lost to an interruption
SECONDS = "fit/seconds"
STATES_PER_FIT = 10  # in a fit by epochs, at most one per epoch; each training state replaces the last


class ProcessSettings(Callback):
    """Settings that each process of trainer=ddp needs anew: exact or TensorFloat-32 products, and no remarks."""

    def __init__(self, tf32: bool):
        self.tf32, self._chosen = tf32, ExitStack()

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Choose for this fit."""
        quiet_lightning()
        self._chosen.enter_context(float32_products(self.tf32))

    def teardown(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Return to the choice before."""
        self._chosen.close()

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        """Return to the choice before, also after an error."""
        self._chosen.close()


def make_trainer(*, precision: str = TF32, callbacks: Sequence[Callback] = (), **options: Any) -> Trainer:
    """Return Lightning's Trainer, with `precision="tf32"` beside Lightning's own names.

    TF32 keeps float32 numbers and multiplies them in TensorFloat-32 on GPUs that offer it; elsewhere it equals 32-true.
    """
    settings = ProcessSettings(tf32=precision != "32-true")
    options["precision"] = "32-true" if precision == TF32 else precision
    return Trainer(callbacks=[*callbacks, settings], **options)


class ReportingModule(LightningModule):
    """A LightningModule whose loss is read now and then, not at every step.

    Lightning itself reads each metric of its progress bar after every step, and every reading waits for the device.
    """

    def __init__(self) -> None:
        super().__init__()
        self.shown: dict[str, float] = {}  # in the progress bar

    def report(self, name: str, loss: Tensor) -> None:
        """Log and show the loss at the steps that loggers write.

        Raises:
            UserError: it is not a finite number.
        """
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # Lightning's logger connector sets it
        if (self.global_step + 1) % every:
            return
        value = loss.item()
        if not math.isfinite(value):
            raise UserError(
                f"{name.partition('/')[0]}: the loss is {value} at step {self.global_step}; try a smaller learning rate"
            )
        self.shown = {name: value}
        self.log(name, loss.detach())


class StageProgressBar(TQDMProgressBar):
    """Lightning's bar, saying which stage of how many it shows."""

    def __init__(self, label: str, refresh_rate: int):
        super().__init__(refresh_rate)
        self.label = label

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return what the bar shows beside its position."""
        return {**super().get_metrics(trainer, pl_module), **getattr(pl_module, "shown", {})}

    def on_train_epoch_start(self, trainer: Trainer, *args: Any) -> None:
        """Add the epoch to the label where there are several."""
        super().on_train_epoch_start(trainer, *args)
        epochs = (
            f" epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
            if trainer.max_epochs and trainer.max_epochs > 1
            else ""
        )
        self.train_progress_bar.set_description(self.label + epochs)


class Stopwatch(Timer):
    """Lightning's timer of all sessions, whose reading also reaches the process that started the fit in others."""

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Read the timer where every process passes."""
        super().on_train_end(trainer, module)
        trainer.callback_metrics[SECONDS] = torch.tensor(self.time_elapsed("train"), dtype=torch.float64)


def trainer_with(make_trainer: MakeTrainer, **options: Any) -> Trainer:
    """Return Lightning's Trainer for one fit.

    Raises:
        UserError: Lightning does not know an option of the `trainer` configuration, or not with this value.
    """
    try:
        return make_trainer(**options)
    except (TypeError, ValueError) as error:
        raise UserError(f"trainer: {error}; give trainer.NAME=VALUE as Lightning's Trainer takes it") from error


def on_one_device(make_trainer: MakeTrainer) -> MakeTrainer:
    """Return the same without the processes of trainer=ddp, for fits that are short or must come back whole."""
    return partial(make_trainer, devices=1, strategy="auto")


def pick_device(accelerator: str) -> torch.device:
    """Return the device to sample and score on: the GPU, unless `trainer.accelerator` is cpu or there is none."""
    return torch.device("cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu")


def count_devices(devices: int | str, accelerator: str) -> int:
    """Return how many processes train the classifier together: `trainer.devices` is a number or "auto"."""
    if devices != "auto":
        return int(devices)
    return torch.cuda.device_count() if pick_device(accelerator).type == "cuda" else 1


def fit(
    module: LightningModule,
    data: LightningDataModule | None = None,
    *,
    name: str,
    label: str,
    state_dir: Path,
    make_trainer: MakeTrainer,
    loggers: Sequence[Logger] = (),
    callbacks: Sequence[Callback] = (),
    max_epochs: int | None = None,
) -> float:
    """Fit `module` in place and return the seconds it took, over all the sessions it took.

    An interrupted fit is resumed from its last training state; a finished one is loaded, not repeated.

    Args:
        module: The module, on the CPU before and after.
        data: Makes the loaders; None where the module does.
        name: The stage; its files in `state_dir` and its lines in metrics.jsonl carry it.
        label: The label of the progress bar.
        state_dir: The folder of training states; metrics.jsonl lies beside it.
        make_trainer: Lightning's Trainer with the machine's options bound.
        loggers: More than metrics.jsonl.
        callbacks: More than those of every fit.
        max_epochs: With it, training states are written at the ends of epochs; None is for a module whose loader only
            counts its steps (`SteppedModule`): one pass, with training states inside it.

    Raises:
        UserError: The folder is not writable, an option of the Trainer is invalid, or there is no batch to train on.
    """
    finished, resumable = state_dir / f"{name}.safetensors", state_dir / f"{name}.ckpt"
    if finished.is_file():
        state, metadata = load_artifact(finished, "stage")
        module.load_state_dict(state)
        log.info("%s: finished before, taken from %s", label, finished)
        return metadata["seconds"]

    trainer = trainer_of(
        (data or module).train_dataloader(),
        name=name,
        label=label,
        state_dir=state_dir,
        make_trainer=make_trainer,
        loggers=loggers,
        callbacks=callbacks,
        max_epochs=max_epochs,
    )
    resuming = readable(resumable)
    if resuming:
        log.info("%s: going on from %s", label, resumable)
    try:
        trainer.fit(module, datamodule=data, ckpt_path=resumable if resuming else None, weights_only=True)
    except ProcessRaisedException as error:  # from trainer=ddp: its text holds the traceback of that process
        if UserError.__name__ in str(error):
            raise UserError(str(error)) from error
        raise
    if SECONDS not in trainer.callback_metrics:
        raise UserError(
            f"{name}: there are too few images for one batch on each of {trainer.num_devices} devices; "
            "give a smaller task.batch_size or trainer.devices"
        )
    module.cpu()
    seconds = round(trainer.callback_metrics[SECONDS].item(), 2)
    save_artifact(finished, "stage", module.state_dict(), metadata={"seconds": seconds})
    resumable.unlink(missing_ok=True)
    return seconds


def trainer_of(
    loader: Sized,
    *,
    name: str,
    label: str,
    state_dir: Path,
    make_trainer: MakeTrainer,
    loggers: Sequence[Logger],
    callbacks: Sequence[Callback],
    max_epochs: int | None,
) -> Trainer:
    """Return the Trainer of one `fit`, whose arguments these are, for the batches of `loader`."""
    steps_per_epoch = len(loader)
    steps = (max_epochs or 1) * steps_per_epoch
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {state_dir} ({error.strerror}); choose another output folder") from error
    bar = StageProgressBar(label, refresh_rate=max(1, min(20, steps_per_epoch // 10)))
    return trainer_with(
        make_trainer,
        max_epochs=max_epochs or 1,
        logger=[*loggers, JsonLinesLogger(state_dir.parent / "metrics.jsonl", name)],
        callbacks=[bar, Stopwatch(), *callbacks, state_saver(state_dir, name, max_epochs)],
        log_every_n_steps=max(1, steps // LOOKS_PER_FIT if max_epochs is None else min(50, steps // 20)),
        num_sanity_val_steps=0,
        enable_model_summary=False,
    )


def state_saver(state_dir: Path, name: str, max_epochs: int | None) -> ModelCheckpoint:
    """Return the callback that writes training states, each in place of the last.

    By epochs only at their ends: Lightning restarts a loader at its first batch, so going on from the middle of an
    epoch would repeat some batches.
    """
    if max_epochs is None:
        return ModelCheckpoint(state_dir, filename=name, enable_version_counter=False, train_time_interval=SAVE_EVERY)
    return ModelCheckpoint(
        state_dir,
        filename=name,
        enable_version_counter=False,
        every_n_epochs=max(1, max_epochs // STATES_PER_FIT),
        save_on_train_epoch_end=True,
    )


def readable(state: Path) -> bool:
    """Return whether there is a whole training state; a damaged one costs the stage, not the run."""
    if state.is_file():
        try:
            torch.load(state, map_location="meta", weights_only=True)
            return True
        except Exception as error:  # whatever a damaged file makes torch raise
            log.warning("%s is damaged (%s): the stage starts over", state, type(error).__name__)
    return False
