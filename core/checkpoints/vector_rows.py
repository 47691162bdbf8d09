"""The vectors of a zoo of checkpoints, which may lie in several memory-mapped files and need not fit into memory.

K checkpoints · B batch · D numbers in one flattened subset.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from core.runtime.content_hash import hash_tensor
from core.runtime.errors import UserError


class VectorRows:
    """K vectors of D numbers, read from one or several shards only when they are asked for.

    Args:
        shards: Tensors (rows, D) in order, usually memory-mapped. Nothing is copied.
        files: The file of each shard; empty if the shards are tensors in memory or in one file with other tensors.
        hashes: The stored hash of each shard, from `hash_tensor`; empty if none is stored.
        zoo: The rows of which these are the first; None for a whole zoo.

    Raises:
        UserError: There is no shard, or the shards are not matrices of equal width.
    """

    def __init__(
        self,
        shards: Sequence[Tensor],
        *,
        files: Sequence[Path] = (),
        hashes: Sequence[str] = (),
        zoo: "VectorRows | None" = None,
    ):
        shapes = [tuple(shard.shape) for shard in shards]
        if len({shape[1:] for shape in shapes}) != 1 or len(shapes[0]) != 2:
            raise UserError(f"shards of shapes {shapes} do not fit together: expected matrices of equal width")
        self.shards, self.files, self.stored_hashes = tuple(shards), tuple(files), tuple(hashes)
        self._zoo = zoo
        self._ends = torch.tensor([len(shard) for shard in shards]).cumsum(0)

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def shape(self) -> tuple[int, int]:
        """(K, D)."""
        return len(self), self.shards[0].shape[1]

    @property
    def num_bytes(self) -> int:
        """The size of all vectors in bytes."""
        return sum(shard.nbytes for shard in self.shards)

    @property
    def identity(self) -> tuple[int, tuple[str, ...]]:
        """The number of these rows, and the hashes of all shards of the whole zoo, of which they may be the first rows.

        The vectors are read only if no hashes are stored.
        """
        return len(self), (self._zoo or self)._hashes

    @cached_property
    def _hashes(self) -> tuple[str, ...]:
        return self.stored_hashes or tuple(map(hash_tensor, self.shards))

    def hash_anew(self, on_rows: Callable[[Tensor], None]) -> tuple[str, ...]:
        """Return the hashes of all shards, computed from their present content.

        Args:
            on_rows: Called with each block of rows in order, for another check in the same pass.
        """
        return tuple(hash_tensor(shard, on_rows) for shard in self.shards)

    def take(self, rows_B: Tensor) -> Tensor:
        """Return a copy of the rows with these numbers (B,), as (B, D) on the CPU."""
        rows_B = rows_B.cpu()
        shard_B = torch.searchsorted(self._ends, rows_B, right=True)
        places = zip(shard_B.tolist(), (rows_B - self._ends[shard_B]).tolist(), strict=True)
        return torch.stack([self.shards[shard][row] for shard, row in places])  # a row is counted from the shard's end

    def columns(self, part: slice) -> Tensor:
        """Return some columns of all vectors, (K, columns); it is a copy if there are several shards."""
        return join([shard[:, part] for shard in self.shards])

    def split(self, size: int) -> Iterator[Tensor]:
        """Yield all vectors in order, as batches of at most `size` rows (B, D); no batch spans two shards."""
        for shard in self.shards:
            yield from shard.split(size)

    def first(self, k: int) -> "VectorRows":
        """Return the first `k` vectors, for 1 ≤ k ≤ K."""
        starts = [0, *self._ends.tolist()]
        shards = [shard[: k - start] for shard, start in zip(self.shards, starts, strict=False) if start < k]
        return VectorRows(shards, zoo=self._zoo or self)

    def cut(self, sizes: Sequence[int]) -> "VectorRows":
        """Return the vectors of a single shard as shards of these numbers of rows, without a copy."""
        return VectorRows(self.to_tensor().split(list(sizes)))

    def to_tensor(self) -> Tensor:
        """Return all vectors as one tensor (K, D): the shard itself if there is one, else a copy in memory."""
        return join(self.shards)


def join(parts: Sequence[Tensor]) -> Tensor:
    """Return the rows of all parts as one tensor, without a copy if there is only one part."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
