"""Progress of one fit by Lightning, as part of the progress of its stage."""

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from core.runtime.stage_progress import StageProgress

LOSS = "fit/loss"


class FitProgress(Callback):
    """A callback that counts the steps of a fit, which together fill one unit of the current part of a stage.

    With trainer=ddp only rank 0 shows them.

    Args:
        progress: The progress of the stage.
    """

    def __init__(self, progress: StageProgress):
        self.progress = progress
        self._has_counted = False

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Show the number of the epoch if there are several epochs."""
        if trainer.is_global_zero and has_epochs(trainer):
            self.progress.show(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}")

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count one step, and in a resumed fit also the steps of earlier sessions."""
        if not trainer.is_global_zero:
            return
        total = (trainer.max_epochs or 1) * trainer.num_training_batches
        if not self._has_counted:
            self.progress.skip((trainer.current_epoch * trainer.num_training_batches + batch_idx) / total)
            self._has_counted = True
        # `ReportingModule.report` reads the loss at some steps only, because every reading waits for the device.
        if (loss := getattr(module, "last_loss", None)) is not None:
            self.progress.measure(loss=loss)
        self.progress.advance(1 / total)

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Show the metrics of the epoch, which waits for the device once."""
        if trainer.is_global_zero and has_epochs(trainer):
            metrics = {name: value for name, value in trainer.progress_bar_metrics.items() if isinstance(value, float)}
            self.progress.measure(**metrics)
            self.progress.end_epoch()

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Hand the last loss to the process that started the fit, which is another process with trainer=ddp."""
        if (loss := getattr(module, "last_loss", None)) is not None:
            trainer.callback_metrics[LOSS] = torch.tensor(loss, dtype=torch.float64)

    def teardown(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Remove the bar that a process of trainer=ddp drew, because the process that started it has its own bar."""
        if self.progress.is_copy:
            self.progress.clear()

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        """Remove the bar that a process of trainer=ddp drew, since `teardown` is not called after an error."""
        if self.progress.is_copy:
            self.progress.clear()


def has_epochs(trainer: Trainer) -> bool:
    """Return whether a fit has several epochs, whose numbers are shown."""
    return (trainer.max_epochs or 1) > 1
