"""The K checkpoints and the frozen network around them, stored as one file, or as one file and several shards.

K checkpoints · H held-out vectors · D numbers in one flattened subset.
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

from core.checkpoints.optimizer_state import OptimizerState, flatten_state, unflatten_state
from core.checkpoints.shards import find_shards, needs_shards, place_shards, plan_shards
from core.checkpoints.subset import ParameterSubset
from core.checkpoints.vector_rows import VectorRows
from core.checkpoints.verified_files import VerifiedFiles
from core.runtime.arrays import save_arrays
from core.runtime.artifacts import Artifact, open_artifact, save_artifact
from core.runtime.content_hash import hash_json
from core.runtime.errors import UserError
from core.runtime.settings import describe_differences, find_differences

KIND = "checkpoints"
FORMAT_VERSION, FIRST_VERSION = 2, 1
ROWS_AT_ONCE = 32
NETWORK_PREFIX = "network/"
COLLECT_AGAIN = "Delete the file, then collect the checkpoints again with python task_training.py"


@dataclass(frozen=True, kw_only=True)
class CheckpointSet:
    """K trained vectors with everything needed to restore their networks and score them.

    A vector copied into `network` reaches exactly its recorded accuracy on the split `provenance["accuracy_split"]`.
    `VectorRows([vectors_KD])` makes the rows from one tensor.

    Raises:
        UserError: The shapes do not fit together, or an accuracy is not finite.
    """

    rows: VectorRows  # the vectors (K, D), read when they are asked for
    accuracy_K: Tensor  # in [0, 1]
    subset: ParameterSubset
    # The whole state dict of the trained classifier; a vector replaces its subset entries.
    network: Mapping[str, Tensor]
    settings: Mapping[str, Any]  # everything that determines the vectors: data, model, training, seed
    provenance: Mapping[str, Any] = field(default_factory=dict)  # origin: seconds, split, versions, commit
    history_ED: Tensor | None = None  # the subset at the start of each epoch of the classifier, and at the end
    # Which training and which of its optimizer steps each vector comes from, int64. None if this is unknown, as in
    # files of version 1 and in imported ones.
    origin_K2: Tensor | None = None
    # Further checkpoints that no generator sees: later steps of the same training, or other trainings.
    held_out_HD: Tensor | None = None
    held_out_origin_H2: Tensor | None = None
    optimizer_state: OptimizerState | None = None  # after the K-th checkpoint, if one training gave all of them
    path: Path | None = None
    version: int = FORMAT_VERSION  # the format version of the file; it decides how the fingerprint is computed

    def __post_init__(self) -> None:
        where = self.path or "the checkpoints"
        if self.rows.shape[1] != self.subset.num_params:
            raise UserError(
                f"{where}: vectors of shape {self.rows.shape} do not fit the subset of "
                f"{self.subset.num_params} numbers. {COLLECT_AGAIN}"
            )
        if self.accuracy_K.shape != (len(self),):
            raise UserError(f"{where}: expected {len(self)} accuracies, found {len(self.accuracy_K)}. {COLLECT_AGAIN}")
        if not torch.isfinite(self.accuracy_K).all():
            raise UserError(f"{where}: an accuracy is not finite. {COLLECT_AGAIN}")
        expected = {
            "origin": (self.origin_K2, (len(self), 2)),
            "held_out": (self.held_out_HD, (self.num_held_out, self.subset.num_params)),
            "held_out_origin": (self.held_out_origin_H2, (self.num_held_out, 2)),
        }
        for name, (tensor, shape) in expected.items():
            if tensor is not None and tuple(tensor.shape) != shape:
                raise UserError(f"{where}: {name} has shape {tuple(tensor.shape)}, expected {shape}. {COLLECT_AGAIN}")

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def num_held_out(self) -> int:
        """H, the number of held-out vectors."""
        return 0 if self.held_out_HD is None else len(self.held_out_HD)

    @cached_property
    def vectors_KD(self) -> Tensor:
        """All vectors as one tensor (K, D).

        If the zoo lies in several shards, this copies all K × D numbers into memory. Code for large zoos uses `rows`.
        """
        return self.rows.to_tensor()

    @cached_property
    def fingerprint(self) -> str:
        """A hash of vectors, subset and network; a generator stores the hash of the set that it was trained on.

        It comes from the stored hashes of all vectors of the file and from K, so the vectors are not read again. The
        first k rows of a larger zoo therefore have another fingerprint than a zoo of these k rows alone. For a
        file of version 1, which stores no hashes, it is the hash of the first K vectors themselves. It is computed
        once, so the tensors of a set must never be changed in place.
        """
        digest = hashlib.sha256(repr(self.subset).encode())
        if self.subset.updates:
            digest.update(repr(self.subset.updates).encode())
        if self.version == FIRST_VERSION:
            for block_BD in self.rows.split(ROWS_AT_ONCE):
                digest.update(block_BD.contiguous().numpy().data)
        else:
            digest.update(repr(self.rows.identity).encode())
        for name in sorted(self.network):
            digest.update(self.network[name].contiguous().numpy().data)
        return digest.hexdigest()[:16]

    @property
    def validation_HD(self) -> Tensor | None:
        """The first half of the held-out vectors, for losses on vectors that a generator was not trained on."""
        return None if self.held_out_HD is None else self.held_out_HD[: len(self.held_out_HD) // 2]

    @property
    def audit_HD(self) -> Tensor | None:
        """The second half of the held-out vectors, for the audit alone."""
        return None if self.held_out_HD is None else self.held_out_HD[len(self.held_out_HD) // 2 :]

    @property
    def audit_origin_H2(self) -> Tensor | None:
        """Training and step of each vector of `audit_HD`; None if they are unknown."""
        return None if self.held_out_origin_H2 is None else self.held_out_origin_H2[self.num_held_out // 2 :]

    def first(self, k: int) -> "CheckpointSet":
        """Return a set of the first `k` checkpoints; if `k` is the size of the set, return the set itself.

        A smaller set has no optimizer state, because the stored one belongs to the end of the whole set.

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
        origin_K2 = None if self.origin_K2 is None else self.origin_K2[:k]
        accuracy_K = self.accuracy_K[:k]
        return replace(self, rows=self.rows.first(k), accuracy_K=accuracy_K, origin_K2=origin_K2, optimizer_state=None)

    def require_distinct(self) -> None:
        """Check that two checkpoints differ, reading rows only until one differs from the first.

        Raises:
            UserError: All checkpoints are equal.
        """
        first_1D = self.rows.take(torch.zeros(1, dtype=torch.int64))
        if all(bool((block_BD == first_1D).all()) for block_BD in self.rows.split(ROWS_AT_ONCE)):
            raise UserError(
                f"all {len(self)} checkpoints in {self.path or 'the set'} are equal, so there is no distribution to "
                "learn. Collect them again with a larger learning rate (task.collect.optimizer.lr)"
            )

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

    def check_vectors(self) -> tuple[str, ...]:
        """Check that all vectors are finite and that the rows have the content that was written.

        One pass reads all K × D numbers, so it runs only when a file is read or written. It reads a few rows at a time,
        because the vectors are memory-mapped and may be larger than main memory. The held-out vectors are checked after
        the rows, for finite numbers alone.

        Returns:
            The hash of each shard of the rows.

        Raises:
            UserError: The content of a file was changed, or a number is NaN or infinite. The message names the file, or
                the checkpoint and the parameter.
        """
        unusable, count = "", 0

        def check_rows(block_BD: Tensor) -> None:
            nonlocal unusable, count
            unusable = unusable or self._find_unusable(block_BD, "checkpoint", count)
            count += len(block_BD)

        hashes = self.rows.hash_anew(check_rows)
        for number, (stored, found) in enumerate(zip(self.rows.stored_hashes, hashes, strict=False)):
            if stored != found:
                file = self.rows.files[number] if self.rows.files else self.path
                raise UserError(
                    f"{file} is damaged or belongs to another zoo: its vectors are not those that {self.path} was "
                    f"written with. Restore this file. If you have no copy: {COLLECT_AGAIN.lower()}"
                )
        held_out = () if self.held_out_HD is None else self.held_out_HD.split(ROWS_AT_ONCE)
        for number, block_BD in enumerate(held_out):
            unusable = unusable or self._find_unusable(block_BD, "held-out checkpoint", number * ROWS_AT_ONCE)
        if unusable:
            raise UserError(
                f"{self.path or 'the checkpoints'}: {unusable}. "
                "Remove this checkpoint, or set a smaller learning rate and collect again"
            )
        return hashes

    def _find_unusable(self, block_BD: Tensor, label: str, first: int) -> str:
        """Return where vectors hold NaN or infinity, counting them from `first`; an empty text if they do not."""
        if torch.isfinite(block_BD).all():
            return ""
        row, column = (~torch.isfinite(block_BD)).nonzero()[0].tolist()
        return f"{label} {first + row} holds {block_BD[row, column].item()} in {self.subset.find_name(column)}"

    def save(self, path: Path) -> None:
        """Write the set as one file; the vectors of a large zoo get files of their own beside it, which come first.

        Raises:
            UserError: A number is not finite, or a file cannot be written.
        """
        metadata: dict[str, Any] = {
            "subset": self.subset.to_metadata(),
            "settings": self.settings,
            "provenance": self.provenance,
        }
        if needs_shards(self.rows):
            parts = self.rows if self.rows.files else self.rows.cut(plan_shards(*self.rows.shape))
            hashes = replace(self, rows=parts).check_vectors()
            vectors, metadata["shards"] = {}, place_shards(parts, hashes, path)
        else:
            self.check_vectors()
            vectors = {"vectors": self.vectors_KD}
        tensors = vectors | self._list_other_tensors()
        save_artifact(path, KIND, tensors, metadata=metadata, version=FORMAT_VERSION)

    def _list_other_tensors(self) -> dict[str, Tensor]:
        """Return all tensors of the file except for the vectors, by their names in the file."""
        optional = {
            "history": self.history_ED,
            "origin": self.origin_K2,
            "held_out": self.held_out_HD,
            "held_out_origin": self.held_out_origin_H2,
        }
        tensors = {"accuracy": self.accuracy_K, **flatten_state(self.optimizer_state)}
        tensors |= {NETWORK_PREFIX + name: tensor for name, tensor in self.network.items()}
        return tensors | {name: tensor for name, tensor in optional.items() if tensor is not None}

    def save_history(self, path: Path) -> None:
        """Write `history_ED` as npz for a figure; do nothing if it was not recorded."""
        if self.history_ED is None:
            return
        subset = {"names": np.array(self.subset.names), "sizes": np.array(self.subset.sizes)}
        save_arrays(path, {"history_ED": self.history_ED.numpy(), **subset})

    @classmethod
    def load(cls, path: Path) -> "CheckpointSet":
        """Load and check a checkpoints file and its shards.

        The vectors are checked only if a file has changed since the last check, because that reads all of them.

        Raises:
            UserError: A file is missing, damaged, changed or of another kind, or a number in it is not finite.
        """
        artifact = open_artifact(
            path,
            KIND,
            hint="Run python task_training.py with the same overrides, or set task.param.path=FILE",
            unverified=("vectors", "held_out"),
            versions=(FIRST_VERSION, FORMAT_VERSION),
        )
        tensors, metadata = artifact.tensors, artifact.metadata
        found = tensors.keys() | metadata.keys() | ({"vectors"} if "shards" in metadata else set())
        if missing := {"vectors", "accuracy", "subset", "settings", "provenance"} - found:
            raise UserError(f"{path} lacks {', '.join(sorted(missing))}. {COLLECT_AGAIN}")
        subset = ParameterSubset.from_metadata(metadata["subset"])
        rows = open_rows(artifact, subset)
        checkpoints = cls(
            rows=rows,
            accuracy_K=tensors["accuracy"],
            subset=subset,
            network={
                name.removeprefix(NETWORK_PREFIX): tensor
                for name, tensor in tensors.items()
                if name.startswith(NETWORK_PREFIX)
            },
            settings=metadata["settings"],
            provenance=metadata["provenance"],
            history_ED=tensors.get("history"),
            origin_K2=tensors.get("origin"),
            held_out_HD=tensors.get("held_out"),
            held_out_origin_H2=tensors.get("held_out_origin"),
            optimizer_state=unflatten_state(tensors),
            path=path,
            version=artifact.version,
        )
        if not artifact.hashes:  # A file of version 1 stores no hashes, by which it could be known again.
            checkpoints.check_vectors()
            return checkpoints
        shards = dict(zip(rows.files, rows.stored_hashes, strict=False))
        files = VerifiedFiles(path, {path: hash_json(dict(artifact.hashes)), **shards})
        if not files.are_unchanged():
            if checkpoints.held_out_HD is not None:
                artifact.verify("held_out")
            checkpoints.check_vectors()
            files.remember()
        return checkpoints


def open_rows(artifact: Artifact, subset: ParameterSubset) -> VectorRows:
    """Return the vectors of a checkpoints file, unchecked; they lie in the file itself or in its shards.

    Raises:
        UserError: A shard is missing, damaged or has another size than expected.
    """
    if "shards" in artifact.metadata:
        return find_shards(
            artifact.metadata["shards"], artifact.path, num_params=subset.num_params, advice=COLLECT_AGAIN
        )
    hashes = [artifact.hashes["vectors"]] if artifact.hashes else []
    return VectorRows([artifact.tensors["vectors"]], hashes=hashes)
