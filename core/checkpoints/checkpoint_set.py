"""The K checkpoints and the frozen network around them, as one file.

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
from core.runtime.artifacts import load_artifact, replacing, save_artifact
from core.runtime.errors import UserError
from core.runtime.settings import describe, differences

KIND = "checkpoints"
NETWORK_PREFIX = "network/"


@dataclass(frozen=True, kw_only=True)
class CheckpointSet:
    """K trained vectors, with everything that is needed to put one back and score it.

    A vector put into `network` reaches exactly its recorded accuracy on the split `provenance["accuracy_split"]`.
    """

    vectors_KD: Tensor
    accuracy_K: Tensor  # in [0, 1]
    subset: ParameterSubset
    # The whole state dict of the classifier; its subset entries are the trained starting point.
    network: Mapping[str, Tensor]
    settings: Mapping[str, Any]  # what determined the file: data, model, training, seed
    provenance: Mapping[str, Any] = field(default_factory=dict)  # origin: seconds, split, versions, commit
    history_ED: Tensor | None = None  # the subset through classifier training: the start of each epoch, and the end
    path: Path | None = None

    def __post_init__(self) -> None:
        where = self.path or "the checkpoints"
        if self.vectors_KD.dim() != 2 or self.vectors_KD.shape[1] != self.subset.num_params:
            raise UserError(
                f"{where}: vectors of shape {tuple(self.vectors_KD.shape)} do not fit the subset of "
                f"{self.subset.num_params} numbers; collect again"
            )
        if self.accuracy_K.shape != (len(self),):
            raise UserError(f"{where}: {len(self.accuracy_K)} accuracies for {len(self)} vectors; collect again")
        if not torch.isfinite(self.accuracy_K).all():
            raise UserError(f"{where}: an accuracy is not a number; collect again")

    def __len__(self) -> int:
        return len(self.vectors_KD)

    @cached_property
    def fingerprint(self) -> str:
        """The identity of vectors, subset and network; a generator remembers the set it was trained on by this.

        Computed once, since it reads all K × D numbers: nothing may write into the tensors of a set.
        """
        digest = hashlib.sha256(repr(self.subset).encode())
        for tensor in (self.vectors_KD, *(self.network[name] for name in sorted(self.network))):
            digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()[:16]

    def first(self, k: int) -> "CheckpointSet":
        """Return the first `k` checkpoints; all of them are the set itself.

        Raises:
            UserError: `k` is below 2, or above the number of checkpoints.
        """
        if k < 2:
            raise UserError(f"task.param.k={k}: a distribution needs at least 2 checkpoints; give 2 or more")
        if k > len(self):
            raise UserError(
                f"task.param.k={k} checkpoints asked for, but {self.path or 'the set'} holds {len(self)}; "
                f"give task.param.k={len(self)} or collect more"
            )
        if k == len(self):
            return self
        return replace(self, vectors_KD=self.vectors_KD[:k], accuracy_K=self.accuracy_K[:k])

    def require(self, settings: Mapping[str, Any]) -> None:
        """Check that the set was made with these settings.

        Raises:
            UserError: The set was made with other settings; what differs is named.
        """
        if differing := differences(self.settings, settings):
            raise UserError(
                f"{self.path} was made with other settings ({describe(differing)}); "
                "give the same ones, or task.param.path= of another file, or delete it"
            )

    def check_finite(self) -> None:
        """Raise `UserError` for a number that is not finite, named by its checkpoint and tensor.

        A pass over all K × D numbers, so it is made where they enter or leave a file and nowhere else. It goes row by
        row, since the vectors are memory-mapped and may be larger than the memory.
        """
        for row, vector_D in enumerate(self.vectors_KD):
            if torch.isfinite(vector_D).all():
                continue
            column = int((~torch.isfinite(vector_D)).nonzero()[0])
            raise UserError(
                f"{self.path or 'the checkpoints'}: checkpoint {row} holds {vector_D[column].item()} in "
                f"{self.subset.name_at(column)}; remove that checkpoint or collect again with a smaller learning rate"
            )

    def save(self, path: Path) -> None:
        """Write the set, whole or not at all.

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
        """Write the subset through classifier training as npz, for the figure; nothing where it was not recorded."""
        if self.history_ED is None:
            return
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                history_ED=self.history_ED.numpy(),
                names=np.array(self.subset.names),
                sizes=np.array(self.subset.sizes),
            )

    @classmethod
    def load(cls, path: Path) -> "CheckpointSet":
        """Read and check a checkpoints file.

        Raises:
            UserError: The file is missing, damaged or foreign, or a number in it is not finite.
        """
        tensors, metadata = load_artifact(
            path, KIND, hint="make them with python task_training.py, or say with task.param.path=FILE where they are"
        )
        if missing := {"vectors", "accuracy", "subset", "settings", "provenance"} - tensors.keys() - metadata.keys():
            raise UserError(f"{path} lacks {sorted(missing)}; collect again")
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
