"""The base of all trained modules, which reads the loss a limited number of times and ends a diverged training."""

import math
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor

from core.runtime.errors import UserError
from core.runtime.training_state import read_saved_step


class ReportingModule(LightningModule):
    """A LightningModule whose loss is read from the device a limited number of times.

    Every reading waits for the device, and Lightning's own progress bar would read the loss after every step.
    """

    stage = ""  # the name of the stage in messages; empty for the name of the fit

    def __init__(self) -> None:
        super().__init__()
        self.last_loss: float | None = None  # shown by the progress of the stage

    @property
    def reads_loss(self) -> bool:
        """Whether the loss of this step is read, which holds only for the steps whose metrics the loggers write."""
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # Lightning's logger connector sets it
        return bool((self.global_step + 1) % every == 0)

    def report(self, name: str, loss: Tensor) -> None:
        """Read, check and log the loss if `reads_loss` holds.

        Raises:
            UserError: The loss is not a finite number.
        """
        if not self.reads_loss:
            return
        value = loss.item()
        if not math.isfinite(value):
            raise UserError(self._describe_divergence(f"the loss is {value}"))
        self.last_loss = value
        self.log(name, loss.detach())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check the weights before they replace those of the last training state, so that this one stays usable.

        Raises:
            UserError: A parameter or buffer is not finite.
        """
        self.require_finite_weights()

    def require_finite_weights(self) -> None:
        """Check all weights, because a training may diverge between two steps whose loss is read.

        Raises:
            UserError: A parameter or buffer is not finite.
        """
        for name, tensor in self.state_dict().items():
            if not torch.isfinite(tensor).all():
                raise UserError(self._describe_divergence(f"{name} is not finite"))

    def _describe_divergence(self, problem: str) -> str:
        """Return the problem with the step, the last training state, and what to set."""
        saver = self._trainer.checkpoint_callback if self._trainer else None
        stage, kept = self.stage, "No earlier state was saved"
        if isinstance(saver, ModelCheckpoint) and saver.dirpath:
            stage, state = stage or str(saver.filename), Path(saver.dirpath) / f"{saver.filename}.ckpt"
            if (step := read_saved_step(state)) is not None:
                kept = f"The state of step {step}, in {state}, is intact"
        return (
            f"{stage}: {problem} at step {self.global_step}. {kept}. Set a smaller learning rate (lr of the "
            "optimizer of this stage), or trainer.precision=32-true if it is another one"
        )
