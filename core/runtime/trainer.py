"""Lightning's Trainer as the project uses it: precision, loggers, and fits that are resumed or skipped."""

import logging
from collections.abc import Callable, Iterable, Sequence, Sized
from contextlib import ExitStack, nullcontext
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint, Timer
from pytorch_lightning.loggers import Logger
from torch import Tensor
from torch.multiprocessing import ProcessRaisedException
from torch.optim import Optimizer

from core.runtime.artifacts import load_artifact, save_artifact
from core.runtime.errors import UserError
from core.runtime.fit_progress import LOSS, FitProgress
from core.runtime.interruption import defer_signals
from core.runtime.loggers import JsonLinesLogger
from core.runtime.precision import set_float32_precision
from core.runtime.quiet import quiet_lightning
from core.runtime.stage_progress import StageProgress
from core.runtime.training_state import SaveAtSignal, TrainingStateIO, read_saved_step

log = logging.getLogger(__name__)
MakeTrainer = Callable[..., Trainer]
MakeOptimizer = Callable[[Iterable[Tensor]], Optimizer]
TF32 = "tf32"
PRECISIONS = (TF32, "32-true", "bf16-mixed", "16-mixed")
LOSS_READS_PER_FIT = 100  # number of times that a fit by steps reads its loss; each waits for the device
SAVE_EVERY = timedelta(seconds=30)  # save interval of fits by steps, which bounds the work lost to a crash
SECONDS = "fit/seconds"
STATES_PER_FIT = 10  # training states that a fit by epochs saves, at most one per epoch; each replaces the last


class ProcessSettings(Callback):
    """Settings that every process of trainer=ddp has to make for itself: float32 products and Lightning's warnings."""

    def __init__(self, tf32: bool):
        self.tf32, self._chosen = tf32, ExitStack()

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Make the settings for this fit."""
        quiet_lightning()
        self._chosen.enter_context(set_float32_precision(self.tf32))

    def teardown(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Restore the settings from before the fit."""
        self._chosen.close()

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        """Restore the settings, since `teardown` is not called after an error."""
        self._chosen.close()


def make_trainer(*, precision: str = TF32, callbacks: Sequence[Callback] = (), **options: Any) -> Trainer:
    """Return Lightning's Trainer, which also takes `precision="tf32"`.

    TF32 keeps float32 numbers and multiplies them in TensorFloat-32 on GPUs that offer it. Elsewhere it equals 32-true.
    """
    settings = ProcessSettings(tf32=precision != "32-true")
    options["precision"] = "32-true" if precision == TF32 else precision
    return Trainer(callbacks=[*callbacks, settings], **options)


class Stopwatch(Timer):
    """Lightning's timer over all sessions of a fit, which also reports to the process that started trainer=ddp."""

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Store the seconds among the metrics, which Lightning returns to the process that started the fit."""
        super().on_train_end(trainer, module)
        trainer.callback_metrics[SECONDS] = torch.tensor(self.time_elapsed("train"), dtype=torch.float64)


def build_trainer(make_trainer: MakeTrainer, **options: Any) -> Trainer:
    """Return Lightning's Trainer for one fit.

    Raises:
        UserError: An option of the `trainer` configuration is unknown to Lightning, or has an invalid value.
    """
    try:
        return make_trainer(**options)
    except (TypeError, ValueError) as error:
        raise UserError(f"trainer: {error}. Set trainer.NAME=VALUE to what Lightning's Trainer accepts") from error


def limit_to_one_device(make_trainer: MakeTrainer) -> MakeTrainer:
    """Return a Trainer factory limited to one process, for short fits and fits whose results stay in the process."""
    return partial(make_trainer, devices=1, strategy="auto")


def pick_device(accelerator: str) -> torch.device:
    """Return the device for sampling and scoring: the GPU if there is one and `trainer.accelerator` is not cpu."""
    return torch.device("cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu")


def count_devices(devices: int | str, accelerator: str) -> int:
    """Return the number of processes that train the classifier; `trainer.devices` is a number or "auto"."""
    if devices != "auto":
        return int(devices)
    return torch.cuda.device_count() if pick_device(accelerator).type == "cuda" else 1


def fit(
    module: LightningModule,
    data: LightningDataModule | None = None,
    *,
    name: str,
    state_dir: Path,
    make_trainer: MakeTrainer,
    progress: StageProgress | None = None,
    loggers: Sequence[Logger] = (),
    callbacks: Sequence[Callback] = (),
    max_epochs: int | None = None,
) -> float:
    """Fit `module` in place and return the seconds of training, summed over all sessions.

    An interrupted fit is resumed from its last training state. A finished fit is loaded instead of repeated. A fit by
    steps saves its state when a signal asks it to end (see `core.runtime.interruption`).

    Args:
        module: The module, on the CPU before and after.
        data: Makes the loaders; None if the module makes them.
        name: The name of the fit in file names in `state_dir` and in metrics.jsonl.
        state_dir: The folder of training states; metrics.jsonl lies beside it.
        make_trainer: Lightning's Trainer with the machine's options bound.
        progress: Shows the fit as one unit of the current part of the stage; None shows nothing.
        loggers: Loggers besides metrics.jsonl.
        callbacks: Callbacks besides the ones that every fit gets.
        max_epochs: Number of epochs, with training states saved at the ends of epochs. None trains a `SteppedModule`,
            whose loader yields step numbers. It makes one pass, and training states are saved during the pass.

    Raises:
        UserError: The folder is not writable, an option of the Trainer is invalid, or there is no batch to train on.
        Interrupted: A signal asked for the end.
    """
    progress = progress or StageProgress(name)
    finished, resumable = state_dir / f"{name}.safetensors", state_dir / f"{name}.ckpt"
    with progress.part(by_epochs=(max_epochs or 1) > 1):
        if finished.is_file():
            state, metadata = load_artifact(finished, "stage")
            module.load_state_dict(state)
            log.info("%s: already trained, loaded from %s", progress.label, finished)
            progress.skip()
            return metadata["seconds"]

        trainer = make_fit_trainer(
            (data or module).train_dataloader(),
            name=name,
            state_dir=state_dir,
            make_trainer=make_trainer,
            progress=progress,
            loggers=loggers,
            callbacks=callbacks,
            max_epochs=max_epochs,
        )
        step = read_saved_step(resumable)
        if step is not None:
            log.info("%s: resuming from step %d, saved in %s", progress.label, step, resumable)
        if trainer.num_devices > 1:
            progress.clear()  # a process of trainer=ddp shows the progress instead
        # A fit by epochs cannot be resumed inside an epoch, and other processes train with trainer=ddp.
        saves_at_signals = max_epochs is None and trainer.num_devices == 1
        try:
            with defer_signals() if saves_at_signals else nullcontext():
                trainer.fit(module, datamodule=data, ckpt_path=None if step is None else resumable, weights_only=True)
        except ProcessRaisedException as error:  # trainer=ddp puts the traceback of its process into the text
            if UserError.__name__ in str(error):
                raise UserError(str(error)) from error
            raise
        if SECONDS not in trainer.callback_metrics:
            raise UserError(
                f"{name}: too few images for one batch on each of {trainer.num_devices} devices. "
                "Set a smaller task.batch_size or trainer.devices"
            )
        if LOSS in trainer.callback_metrics:
            progress.loss = trainer.callback_metrics[LOSS].item()
        module.cpu()
        seconds = round(trainer.callback_metrics[SECONDS].item(), 2)
        save_artifact(finished, "stage", module.state_dict(), metadata={"seconds": seconds})
        resumable.unlink(missing_ok=True)
        return seconds


def forget_fit(name: str, state_dir: Path) -> None:
    """Delete the training state and the result of a fit, so that the next `fit` of this name starts at step 0."""
    for suffix in (".ckpt", ".safetensors"):
        (state_dir / f"{name}{suffix}").unlink(missing_ok=True)


def make_fit_trainer(
    loader: Sized,
    *,
    name: str,
    state_dir: Path,
    make_trainer: MakeTrainer,
    progress: StageProgress,
    loggers: Sequence[Logger],
    callbacks: Sequence[Callback],
    max_epochs: int | None,
) -> Trainer:
    """Return the Trainer of one `fit` over the batches of `loader`; `fit` explains the other arguments."""
    steps = (max_epochs or 1) * len(loader)
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write to {state_dir} ({error.strerror}). "
            "Set output_dir=FOLDER (train_p_diff.py) or task.param.path=FILE (task_training.py) to a writable folder"
        ) from error
    trainer = build_trainer(
        make_trainer,
        max_epochs=max_epochs or 1,
        logger=[*loggers, JsonLinesLogger(state_dir.parent / "metrics.jsonl", name)],
        callbacks=[
            FitProgress(progress),
            Stopwatch(),
            *callbacks,
            make_state_saver(state_dir, name, max_epochs),
            SaveAtSignal(state_dir / f"{name}.ckpt"),
        ],
        log_every_n_steps=max(1, steps // LOSS_READS_PER_FIT if max_epochs is None else min(50, steps // 20)),
        num_sanity_val_steps=0,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    trainer.strategy.checkpoint_io = TrainingStateIO()
    return trainer


def make_state_saver(state_dir: Path, name: str, max_epochs: int | None) -> ModelCheckpoint:
    """Return the callback that saves training states, each in place of the last.

    Fits by epochs save only at the ends of epochs, because Lightning restarts a loader at its first batch. Resuming in
    the middle of an epoch would repeat some batches.
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
