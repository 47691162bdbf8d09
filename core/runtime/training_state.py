"""Training states, from which interrupted fits are resumed: Lightning's files with a hash of their content."""

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from torch import Tensor

from core.runtime.artifacts import HASH, RESTORE, replace_atomically
from core.runtime.content_hash import hash_tensor
from core.runtime.errors import UserError
from core.runtime.interruption import Interrupted, get_deferred_signal

log = logging.getLogger(__name__)


class TrainingStateIO(TorchCheckpointIO):
    """Lightning's writing and reading of training states, with a hash that is checked before a fit is resumed."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write a training state, its hash included, so that a crash leaves either the old file or the new one.

        Raises:
            UserError: The file cannot be written.
        """
        with replace_atomically(Path(path)) as temporary:
            super().save_checkpoint({**checkpoint, HASH: hash_state(dict(checkpoint))}, temporary, storage_options)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Return a training state, after checking its hash; states of earlier versions have none.

        Raises:
            UserError: The content was changed.
        """
        state = super().load_checkpoint(path, map_location, weights_only)
        stored = state.pop(HASH, None)
        if stored is not None and stored != hash_state(state):
            raise UserError(f"{path} is damaged: it does not have the content that was written. {RESTORE}")
        return state


class SaveAtSignal(Checkpoint):
    """A callback that saves a training state and ends the fit after the step in which a signal asked for the end.

    Lightning calls it after all other callbacks, because it is a `Checkpoint`.
    """

    def __init__(self, file: Path):
        self.file = file

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save and raise `Interrupted` if there was a signal."""
        if (number := get_deferred_signal()) is not None:
            trainer.save_checkpoint(self.file)
            log.info("Saved step %d in %s", trainer.global_step, self.file)
            raise Interrupted(number)


def hash_state(state: Any) -> str:
    """Return the hash of nested mappings and sequences of tensors and plain values, in their order."""
    if isinstance(state, Tensor):
        return hash_tensor(state)
    if isinstance(state, Mapping):
        parts = [part for item in state.items() for part in item]
    elif isinstance(state, list | tuple):
        parts = list(state)
    else:
        return hashlib.sha256(f"{type(state).__name__} {state!r}".encode()).hexdigest()
    return hashlib.sha256(" ".join([type(state).__name__, *map(hash_state, parts)]).encode()).hexdigest()


def read_saved_step(state: Path) -> int | None:
    """Return the step of a training state, or None if there is no readable one, so that the fit starts at step 0."""
    if state.is_file():
        try:
            return TrainingStateIO().load_checkpoint(state, weights_only=True)["global_step"]
        except Exception as error:  # torch raises many kinds of errors for a damaged file
            log.warning("%s is damaged (%s). Training starts from step 0", state, type(error).__name__)
    return None
