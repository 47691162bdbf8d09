"""Lightning's Trainer as the project uses it: precision, progress bar, loggers, resuming a fit, skipping a finished one."""

import logging
import math
import warnings
from collections.abc import Callable, Sequence
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

from core.runtime.artifacts import load_artifact, save_artifact
from core.runtime.errors import UserError
from core.runtime.loggers import JsonLinesLogger
from core.runtime.precision import float32_products

log = logging.getLogger(__name__)
MakeTrainer = Callable[..., Trainer]
TF32 = "tf32"
PRECISIONS = (TF32, "32-true", "bf16-mixed", "16-mixed")
LOOKS_PER_FIT = 100  # how often a fit by steps reads its loss: each look waits for the device
SAVE_EVERY = timedelta(
    seconds=30
)  # of a fit by steps: what an interruption can cost, and long against what saving costs
SECONDS = "fit/seconds"
STATES_PER_FIT = 10  # of a fit by epochs, at most one per epoch; each training state replaces the last

# Said by Lightning at every fit, of itself or about choices made here on purpose: data in memory needs no workers, a network
# whose statistics are frozen is fitted in eval mode, and collecting has nothing to validate.
warnings.filterwarnings("ignore", message=".*does not have many workers.*")
warnings.filterwarnings("ignore", message=".*exists and is not empty.*")
warnings.filterwarnings("ignore", message=".*is smaller than the logging interval.*")
warnings.filterwarnings("ignore", message=".*ended before the epoch ended.*")
warnings.filterwarnings("ignore", message=".*in eval mode at the start of training.*")
warnings.filterwarnings("ignore", message=".*defined a `validation_step` but have no `val_dataloader`.*")
warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated.*")
for name in ("pytorch_lightning.utilities.rank_zero", "pytorch_lightning.accelerators.cuda"):
    logging.getLogger(name).setLevel(logging.WARNING)


class Float32Products(Callback):
    """Choice between exact and TensorFloat-32 products for one fit, made anew in each process of trainer=ddp."""

    def __init__(self, tf32: bool):
        self.tf32, self._chosen = tf32, ExitStack()

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        self._chosen.enter_context(float32_products(self.tf32))

    def teardown(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        self._chosen.close()

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        self._chosen.close()


def make_trainer(*, precision: str = TF32, callbacks: Sequence[Callback] = (), **options: Any) -> Trainer:
    """Return Lightning's Trainer, with `precision="tf32"` beside Lightning's own names.

    TF32 keeps float32 numbers and multiplies them in TensorFloat-32 on GPUs that offer it; elsewhere it equals 32-true.
    """
    exact = precision == "32-true"
    lightning_precision = "32-true" if precision == TF32 else precision
    return Trainer(precision=lightning_precision, callbacks=[*callbacks, Float32Products(not exact)], **options)


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
        if (self.global_step + 1) % self.trainer.log_every_n_steps:
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
        super().on_train_end(trainer, module)
        trainer.callback_metrics[SECONDS] = torch.tensor(self.time_elapsed("train"), dtype=torch.float64)


def trainer_with(make_trainer: MakeTrainer, **options: Any) -> Trainer:
    """Lightning's Trainer for one fit.

    Raises:
        UserError: an option of the `trainer` configuration that Lightning does not know, or not with this value.
    """
    try:
        return make_trainer(**options)
    except (TypeError, ValueError) as error:
        raise UserError(f"trainer: {error}; give trainer.NAME=VALUE as Lightning's Trainer takes it") from error


def on_one_device(make_trainer: MakeTrainer) -> MakeTrainer:
    """The same without the processes of trainer=ddp, for what is too short to be shared out or must come back whole."""
    return partial(make_trainer, devices=1, strategy="auto")


def pick_device(accelerator: str) -> torch.device:
    """Where to sample and score: the GPU, unless `trainer.accelerator` is cpu or there is none."""
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

    An interrupted fit goes on from its last training state; a finished one is loaded, not repeated.

    Args:
        data: makes the loaders; None where the module does.
        name: of the stage; its files in `state_dir` and its lines in metrics.jsonl carry it.
        label: of the progress bar.
        make_trainer: Lightning's Trainer with the machine's options bound.
        max_epochs: with it, training states are written at the ends of epochs; None is for a module whose loader only
            counts its steps (`SteppedModule`): one pass, with training states inside it.
    """
    finished, resumable = state_dir / f"{name}.safetensors", state_dir / f"{name}.ckpt"
    if finished.is_file():
        state, metadata = load_artifact(finished, "stage")
        module.load_state_dict(state)
        log.info("%s: finished before, taken from %s", label, finished)
        return metadata["seconds"]

    steps_per_epoch = len((data or module).train_dataloader())
    steps = (max_epochs or 1) * steps_per_epoch
    if max_epochs is None:
        cadence = {"train_time_interval": SAVE_EVERY}
    else:  # Lightning restarts a loader at its first batch, so going on from the middle of an epoch would repeat some
        cadence = {"every_n_epochs": max(1, max_epochs // STATES_PER_FIT), "save_on_train_epoch_end": True}
    saver = ModelCheckpoint(
        state_dir,
        filename=name,
        enable_version_counter=False,
        **cadence,
    )
    by_steps = max(1, steps // LOOKS_PER_FIT)
    bar = StageProgressBar(label, refresh_rate=max(1, min(20, steps_per_epoch // 10)))
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {state_dir} ({error.strerror}); choose another output folder") from error
    trainer = trainer_with(
        make_trainer,
        max_epochs=max_epochs or 1,
        logger=[*loggers, JsonLinesLogger(state_dir.parent / "metrics.jsonl", name)],
        callbacks=[bar, Stopwatch(), *callbacks, saver],
        log_every_n_steps=by_steps if max_epochs is None else max(1, min(50, steps // 20)),
        num_sanity_val_steps=0,
        enable_model_summary=False,
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
            f"{name}: there are too few images for one batch on each of {trainer.num_devices} devices; give a smaller task.batch_size or trainer.devices"
        )
    module.cpu()
    seconds = round(trainer.callback_metrics[SECONDS].item(), 2)
    save_artifact(finished, "stage", module.state_dict(), {"seconds": seconds})
    resumable.unlink(missing_ok=True)
    return seconds


def readable(state: Path) -> bool:
    """Whether there is a whole training state; a damaged one costs the stage, not the run, and the log says so."""
    if state.is_file():
        try:
            torch.load(state, map_location="meta", weights_only=True)
            return True
        except Exception as error:  # whatever a damaged file makes torch raise
            log.warning("%s is damaged (%s): the stage starts over", state, type(error).__name__)
    return False
