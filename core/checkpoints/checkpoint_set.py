"""The K checkpoints and the frozen network around them, stored as one file.

K checkpoints · D numbers in one flattened subset.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.checkpoints.subset import ParameterSubset
from core.checkpoints.vector_rows import VectorRows
from core.runtime.arrays import save_arrays
from core.runtime.artifacts import load_artifact, save_artifact
from core.runtime.errors import UserError
from core.runtime.settings import describe_differences, find_differences

KIND = "checkpoints"
NETWORK_PREFIX = "network/"
COLLECT_AGAIN = "Delete the file, then collect the checkpoints again with python task_training.py"


@dataclass(frozen=True, kw_only=True)
class CheckpointSet:
    """K trained vectors with everything needed to restore their networks and score them.

    A vector copied into `network` reaches exactly its recorded accuracy on the split `provenance["accuracy_split"]`.

    Raises:
        UserError: The shapes do not fit together, or an accuracy is not finite.
    """

    vectors_KD: Tensor
    accuracy_K: Tensor  # in [0, 1]
    subset: ParameterSubset
    # The whole state dict of the trained classifier; a vector replaces its subset entries.
    network: Mapping[str, Tensor]
    settings: Mapping[str, Any]  # everything that determines the vectors: data, model, training, seed
    provenance: Mapping[str, Any] = field(default_factory=dict)  # origin: seconds, split, versions, commit
    history_ED: Tensor | None = None  # the subset at the start of each epoch of the classifier, and at the end
    # Further checkpoints that no generator sees: later steps of the same training, or other trainings.
    held_out_HD: Tensor | None = None
    path: Path | None = None

    def __post_init__(self) -> None:
        where = self.path or "the checkpoints"
        if self.vectors_KD.dim() != 2 or self.vectors_KD.shape[1] != self.subset.num_params:
            raise UserError(
                f"{where}: vectors of shape {tuple(self.vectors_KD.shape)} do not fit the subset of "
                f"{self.subset.num_params} numbers. {COLLECT_AGAIN}"
            )
        if self.accuracy_K.shape != (len(self),):
            raise UserError(f"{where}: expected {len(self)} accuracies, found {len(self.accuracy_K)}. {COLLECT_AGAIN}")
        if not torch.isfinite(self.accuracy_K).all():
            raise UserError(f"{where}: an accuracy is not finite. {COLLECT_AGAIN}")

    def __len__(self) -> int:
        return len(self.vectors_KD)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of vectors, subset and network; a generator stores the hash of the set that it was trained on.

        It is computed once, because it reads all K × D numbers. So the tensors of a set must never be changed in place.
        """
        digest = hashlib.sha256(repr(self.subset).encode())
        for tensor in (self.vectors_KD, *(self.network[name] for name in sorted(self.network))):
            digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()[:16]

    @cached_property
    def rows(self) -> VectorRows:
        """The vectors (K, D), read when they are asked for."""
        return VectorRows([self.vectors_KD])

    @property
    def validation_HD(self) -> Tensor | None:
        """The first half of the held-out vectors, for losses on vectors that a generator was not trained on."""
        return None if self.held_out_HD is None else self.held_out_HD[: len(self.held_out_HD) // 2]

    @property
    def audit_HD(self) -> Tensor | None:
        """The second half of the held-out vectors, for the audit alone."""
        return None if self.held_out_HD is None else self.held_out_HD[len(self.held_out_HD) // 2 :]

    def first(self, k: int) -> "CheckpointSet":
        """Return a set of the first `k` checkpoints; if `k` is the size of the set, return the set itself.

        Raises:
            UserError: `k` is below 2 or above the number of checkpoints.
        """
        if k < 2:
            raise UserError(
                f"task.param.k={k} is invalid: expected at least 2, because one checkpoint has no distribution. "
                "Set task.param.k=2 or more"
            )
        if k > len(self):
            raise UserError(
                f"task.param.k={k} is too large: {self.path or 'the set'} holds {len(self)} checkpoints. "
                f"Set task.param.k={len(self)} or less, or collect more into another file (task.param.path=FILE)"
            )
        if k == len(self):
            return self
        return replace(self, vectors_KD=self.vectors_KD[:k], accuracy_K=self.accuracy_K[:k])

    def require_settings(self, settings: Mapping[str, Any]) -> None:
        """Check that the set was collected with these settings.

        Raises:
            UserError: The settings differ; the message names up to six differences.
        """
        if differing := find_differences(self.settings, settings):
            raise UserError(
                f"{self.path} was collected with other settings ({describe_differences(differing)}). "
                "Set the same values, set task.param.path=FILE to another file, or delete this one"
            )

    def check_finite(self) -> None:
        """Check that all vectors are finite.

        This reads all K × D numbers, so it runs only when a file is read or written. It reads row by row, because the
        vectors are memory-mapped and may be larger than main memory.

        Raises:
            UserError: A number is NaN or infinite; the message names its checkpoint and parameter.
        """
        for row, vector_D in enumerate(self.vectors_KD):
            if torch.isfinite(vector_D).all():
                continue
            column = int((~torch.isfinite(vector_D)).nonzero()[0])
            raise UserError(
                f"{self.path or 'the checkpoints'}: checkpoint {row} holds {vector_D[column].item()} in "
                f"{self.subset.find_name(column)}. "
                "Remove this checkpoint, or set a smaller learning rate and collect again"
            )

    def save(self, path: Path) -> None:
        """Write the set as one file.

        Raises:
            UserError: A number is not finite, or the file cannot be written.
        """
        self.check_finite()
        tensors = {"vectors": self.vectors_KD, "accuracy": self.accuracy_K}
        tensors |= {NETWORK_PREFIX + name: tensor for name, tensor in self.network.items()}
        if self.history_ED is not None:
            tensors["history"] = self.history_ED
        metadata = {"subset": self.subset.to_metadata(), "settings": self.settings, "provenance": self.provenance}
        save_artifact(path, KIND, tensors, metadata=metadata)

    def save_history(self, path: Path) -> None:
        """Write `history_ED` as npz for a figure; do nothing if it was not recorded."""
        if self.history_ED is None:
            return
        subset = {"names": np.array(self.subset.names), "sizes": np.array(self.subset.sizes)}
        save_arrays(path, {"history_ED": self.history_ED.numpy(), **subset})

    @classmethod
    def load(cls, path: Path) -> "CheckpointSet":
        """Load and check a checkpoints file.

        Raises:
            UserError: The file is missing, damaged or of another kind, or a number in it is not finite.
        """
        tensors, metadata = load_artifact(
            path, KIND, hint="Run python task_training.py with the same overrides, or set task.param.path=FILE"
        )
        if missing := {"vectors", "accuracy", "subset", "settings", "provenance"} - tensors.keys() - metadata.keys():
            raise UserError(f"{path} lacks {', '.join(sorted(missing))}. {COLLECT_AGAIN}")
        network = {
            name.removeprefix(NETWORK_PREFIX): tensor
            for name, tensor in tensors.items()
            if name.startswith(NETWORK_PREFIX)
        }
        checkpoints = cls(
            vectors_KD=tensors["vectors"],
            accuracy_K=tensors["accuracy"],
            subset=ParameterSubset.from_metadata(metadata["subset"]),
            network=network,
            settings=metadata["settings"],
            provenance=metadata["provenance"],
            history_ED=tensors.get("history"),
            path=path,
        )
        checkpoints.check_finite()
        return checkpoints
