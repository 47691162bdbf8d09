"""Shards: safetensors files that hold the rows of a zoo and are filled row by row while the zoo is collected.

K checkpoints · H held-out vectors · D numbers in one flattened subset.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

from torch import Tensor

from core.checkpoints.vector_rows import VectorRows
from core.runtime.artifacts import FORMAT_VERSION, link_or_copy, open_artifact, replace_atomically, save_artifact
from core.runtime.errors import UserError

KIND, TENSOR = "vectors", "vectors"
SHARD_BYTES = 512 * 2**20  # A larger zoo is stored in several files of at most this size.
BYTES_PER_NUMBER = 4  # float32


def plan_shards(num_rows: int, num_params: int) -> list[int]:
    """Return the number of rows of each shard of a zoo."""
    most = max(1, SHARD_BYTES // (BYTES_PER_NUMBER * num_params))
    return [min(most, num_rows - start) for start in range(0, num_rows, most)]


def needs_shards(rows: VectorRows) -> bool:
    """Return whether vectors are too large for one file."""
    return rows.num_bytes > SHARD_BYTES


def name_shard(index: Path, number: int) -> Path:
    """Return the path of a shard, which lies beside the checkpoints file `index`."""
    return index.with_name(f"{index.stem}-vectors-{number:05d}.safetensors")


@dataclass(frozen=True)
class ShardFile:
    """A safetensors file of rows, which has its final size from the start and gets its rows one by one.

    Args:
        path: The file.
        num_rows: The number of rows.
        num_params: D, the width of a row.
        plan: The numbers that identify the collection in the header of the file, so that files of another collection
            are not continued.
    """

    path: Path
    num_rows: int
    num_params: int
    plan: Mapping[str, int]

    @cached_property
    def header(self) -> bytes:
        """The length and the content of the header, as the safetensors format defines them."""
        entries = {
            "__metadata__": {
                "kind": KIND,
                "format_version": str(FORMAT_VERSION),
                "metadata": json.dumps(dict(self.plan)),
            },
            TENSOR: {
                "dtype": "F32",
                "shape": [self.num_rows, self.num_params],
                "data_offsets": [0, self.num_rows * self.row_bytes],
            },
        }
        text = json.dumps(entries, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # The format pads its header with spaces, so that the numbers are aligned.
        return len(text).to_bytes(8, "little") + text

    @property
    def row_bytes(self) -> int:
        """The size of one row in bytes."""
        return BYTES_PER_NUMBER * self.num_params

    @property
    def size(self) -> int:
        """The size of the file in bytes."""
        return len(self.header) + self.num_rows * self.row_bytes

    def exists(self) -> bool:
        """Return whether the file was created for this very plan."""
        if not self.path.is_file() or self.path.stat().st_size != self.size:
            return False
        with self.path.open("rb") as file:
            return file.read(len(self.header)) == self.header

    def create(self) -> None:
        """Write the header and reserve the rows, which are zeros that take no disk space yet."""
        self.path.unlink(missing_ok=True)  # The old file may be linked to a finished zoo, which must keep its rows.
        with self.path.open("wb") as file:
            file.write(self.header)
            file.truncate(self.size)

    def write(self, row: int, vector_D: Tensor) -> None:
        """Write one row; the vector is float32 on the CPU."""
        with self.path.open("rb+") as file:
            file.seek(len(self.header) + row * self.row_bytes)
            file.write(vector_D.contiguous().numpy().data)

    def sync(self) -> None:
        """Wait until the rows have reached the disk."""
        with self.path.open("rb+") as file:
            os.fsync(file.fileno())

    def open(self) -> Tensor:
        """Return the rows, memory-mapped."""
        return open_shard(self.path)


class VectorFiles:
    """K checkpoints and H held-out vectors, written one by one into files in a folder of training states.

    A file gets its final size at first and its rows when they are ready. So the vectors never lie in memory together,
    and a finished row is not copied again. Files of an interrupted collection with the same K, H and D are continued.
    If `continued` is false, `create` must be called before the first vector is written.

    Args:
        folder: The folder of training states.
        k: K, the number of checkpoints.
        held_out: H, the number of vectors after the K-th; they lie in a file of their own.
        num_params: D.
    """

    def __init__(self, folder: Path, k: int, held_out: int, num_params: int):
        self._folder = folder
        plan = {"k": k, "held_out": held_out}
        sizes = plan_shards(k, num_params)
        names = [f"vectors-{number:05d}.safetensors" for number in range(len(sizes))]
        self._shards = [
            ShardFile(folder / name, size, num_params, plan) for name, size in zip(names, sizes, strict=True)
        ]
        self._held_out = [ShardFile(folder / "held_out.safetensors", held_out, num_params, plan)] if held_out else []
        self._starts = [0, *accumulate(shard.num_rows for shard in self._shards)]
        self._written: set[int] = set()  # the numbers of the files that `sync` has to flush
        self.num_checkpoints, self.num_vectors = k, k + held_out
        self.continued = all(shard.exists() for shard in self._all)  # whether an earlier session made the files

    @property
    def _all(self) -> list[ShardFile]:
        return [*self._shards, *self._held_out]

    def create(self) -> None:
        """Create the folder and all files anew, without vectors.

        Raises:
            UserError: The folder cannot be written to, or the disk has less free space than the vectors need.
        """
        with explain_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            self._require_space(self._folder)
            for shard in self._all:
                shard.create()

    def _require_space(self, folder: Path) -> None:
        needed, free = sum(shard.size for shard in self._all), shutil.disk_usage(folder).free
        if needed > free:
            raise UserError(
                f"{self.num_vectors} vectors need {needed / 1e9:.1f} GB in {folder}, but only {free / 1e9:.1f} GB are "
                "free. Free disk space, or set task.param.path=FILE to a file on another disk"
            )

    def write(self, index: int, vector_D: Tensor) -> None:
        """Write the vector (D,) of a checkpoint, or for `index` ≥ K of a held-out vector.

        Raises:
            UserError: The file cannot be written.
        """
        number = next(number for number in reversed(range(len(self._all))) if self._starts[number] <= index)
        shard = self._all[number]
        with explain_errors(shard.path):
            shard.write(index - self._starts[number], vector_D)
        self._written.add(number)

    def sync(self) -> None:
        """Wait until all written vectors have reached the disk; raises `UserError` if this fails."""
        for number in sorted(self._written):
            with explain_errors(self._all[number].path):
                self._all[number].sync()
        self._written.clear()

    def open_rows(self) -> VectorRows:
        """Return the K checkpoints, memory-mapped."""
        return VectorRows([shard.open() for shard in self._shards], files=[shard.path for shard in self._shards])

    def open_held_out(self) -> Tensor | None:
        """Return the held-out vectors (H, D), memory-mapped; None if there are none."""
        return self._held_out[0].open() if self._held_out else None


@contextmanager
def explain_errors(path: Path) -> Iterator[None]:
    """Turn an error of the operating system in the block into a `UserError` that names the path."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {path} ({error.strerror}). Free disk space, or set task.param.path=FILE to a file in a "
            "writable folder, then run the command again"
        ) from error


def open_shard(path: Path, hint: str = "Run the command again") -> Tensor:
    """Return the rows of a shard, memory-mapped and unchecked.

    Raises:
        UserError: The file is missing, damaged or no shard.
    """
    artifact = open_artifact(path, KIND, hint, unverified=(TENSOR,))
    if TENSOR not in artifact.tensors:
        raise UserError(f"{path} lacks {TENSOR}. {hint}")
    return artifact.tensors[TENSOR]


def place_shards(rows: VectorRows, hashes: Sequence[str], index: Path) -> list[dict[str, Any]]:
    """Put the vectors into shards beside the checkpoints file `index`, and return their record for its metadata.

    A shard that already lies in a file of this disk gets a second name, so its rows are not copied.

    Args:
        rows: The vectors.
        hashes: The hash of each shard of `rows`.
        index: The checkpoints file, which is written after its shards.

    Raises:
        UserError: A file cannot be written.
    """
    record = []
    for number, (shard, found) in enumerate(zip(rows.shards, hashes, strict=True)):
        path = name_shard(index, number)
        if rows.files:
            with replace_atomically(path) as temporary:
                link_or_copy(rows.files[number], temporary)
        else:
            save_artifact(path, KIND, {TENSOR: shard}, metadata={})
        record.append({"file": path.name, "rows": len(shard), "sha256": found})
    return record


def find_shards(record: Sequence[Mapping[str, Any]], index: Path, *, num_params: int, advice: str) -> VectorRows:
    """Return the vectors of the shards that a checkpoints file records, memory-mapped and unchecked.

    Args:
        record: The record that `place_shards` returned.
        index: The checkpoints file.
        num_params: The expected D.
        advice: What to do if a shard does not fit, as the second sentence of the error.

    Raises:
        UserError: The record is damaged, or a shard is missing, damaged, or has other sizes than the record.
    """
    try:
        names = [Path(entry["file"]).name for entry in record]  # never a file outside of the folder
        sizes, hashes = [int(entry["rows"]) for entry in record], [str(entry["sha256"]) for entry in record]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{index} has an invalid record of its shards ({error}). {advice}") from error
    files = [index.with_name(name) for name in names]
    hint = f"It holds vectors of {index.name} and must lie beside it. {advice}"
    shards = [open_shard(file, hint) for file in files]
    for file, shard, size in zip(files, shards, sizes, strict=True):
        if tuple(shard.shape) != (size, num_params):
            raise UserError(
                f"{file} holds vectors of shape {tuple(shard.shape)}, but {index} expects {(size, num_params)}. "
                f"It belongs to another checkpoints file. {advice}"
            )
    return VectorRows(shards, files=files, hashes=hashes)
