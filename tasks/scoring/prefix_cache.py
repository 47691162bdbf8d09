"""A cache of the frozen prefix's output, on the device and then in main memory; what does not fit is recomputed.

B items in one chunk.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.data import Dataset, Subset

from core.runtime.memory import count_free_bytes
from tasks.data.loaders import Collate, count_images, make_fixed_loader

AUTO = "auto"
# The share of the free memory that the cache of one split may take. Train, val and test together leave 0.6³ = 22% free.
SHARE = 0.4
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Chunk:
    """The input of the suffix for B items: the tensors that cross the cut, and the targets of the items."""

    crossing: tuple[Any, ...]
    targets: Any

    def tensors(self) -> Iterator[Tensor]:
        """Yield every tensor of the chunk."""
        yield from (part for part in tree_leaves((self.crossing, self.targets)) if isinstance(part, Tensor))

    def map_tensors(self, function: Callable[[Tensor], Tensor]) -> "Chunk":
        """Return the chunk with `function` applied to each of its tensors."""
        return Chunk(*tree_map_only(Tensor, function, (self.crossing, self.targets)))


class PrefixCache:
    """The chunks of one split, each computed once and kept if memory allows.

    Args:
        images: The split.
        batch_size: B, the number of images in one chunk.
        compute: A function that makes a `Chunk` on the device from a batch of inputs and targets of the loader.
        cache_bytes: The largest number of bytes to keep, first on the device and then, for a GPU, in pinned main
            memory. "auto" takes 40% of the free memory of each kind when the first pass begins.
        num_workers: The number of processes that read images, or "auto".
        device: The device that computes.
        collate: Makes a batch of items; None stacks them.
    """

    def __init__(
        self,
        images: Dataset,
        batch_size: int,
        compute: Callable[[Any, Any], Chunk],
        *,
        cache_bytes: float | str,
        num_workers: int | str,
        device: torch.device,
        collate: Collate | None = None,
    ):
        self.images, self.batch_size, self.compute = images, batch_size, compute
        self.cache_bytes, self.num_workers, self.device, self.collate = cache_bytes, num_workers, device, collate
        self._kept: list[Chunk] | None = None  # the first chunks of the split, as many as fit into memory
        self.summary = ""  # a sentence about what is kept, set by the first pass

    def __len__(self) -> int:
        return -(-count_images(self.images) // self.batch_size)

    def __iter__(self) -> Iterator[Chunk]:
        """Yield every chunk on the device."""
        if self._kept is None:
            yield from self._first_pass()
            return
        for chunk in self._kept:
            yield chunk.map_tensors(lambda tensor: tensor.to(self.device, non_blocking=True))
        yield from self._compute_from(len(self._kept))

    def _compute_from(self, first: int) -> Iterator[Chunk]:
        """Compute and yield the chunks from number `first` on."""
        rest = range(first * self.batch_size, count_images(self.images))
        if rest:
            images = Subset(self.images, rest) if first else self.images
            loader = make_fixed_loader(
                images, self.batch_size, num_workers=self.num_workers, device=self.device, collate=self.collate
            )
            for inputs_B, targets_B in loader:
                yield self.compute(inputs_B, targets_B)

    def _first_pass(self) -> Iterator[Chunk]:
        """Compute and yield every chunk, and keep the first ones."""
        kept, limits, full = [], self._limit_bytes(), False
        used = dict.fromkeys(limits, 0)
        for chunk in self._compute_from(0):
            yield chunk
            sizes = {memory: self._count_bytes(memory, chunk) for memory in limits}
            fitting = [memory for memory in limits if used[memory] + sizes[memory] <= limits[memory]]
            full = full or not fitting  # keeping a smaller chunk after one that did not fit would leave a gap
            if not full:
                memory = fitting[0]
                used[memory] += sizes[memory]
                kept.append(chunk.map_tensors(self._keep_on_device if memory == self.device.type else _pin))
        self._kept = kept
        self.summary = self._summarize(used)

    def _summarize(self, used: Mapping[str, int]) -> str:
        """Return a sentence about what is kept, given the bytes used in each kind of memory."""
        where = " and ".join(f"{size / 1e6:,.0f} MB of {memory} memory" for memory, size in used.items() if size)
        num_images = count_images(self.images)
        num_kept = min(len(self._kept or ()) * self.batch_size, num_images)
        summary = f"the output of the frozen layers is cached for {num_kept} of {num_images}"
        summary += f" in {where}" if where else ""
        if num_kept == num_images:
            return summary
        return f"{summary} and recomputed for the others (set scoring.cache_bytes to cache more)"

    def _limit_bytes(self) -> dict[str, float]:
        """Return the largest number of bytes to use in each kind of memory, in the order in which they are filled."""
        devices = [self.device] if self.device == CPU else [self.device, CPU]
        if self.cache_bytes == AUTO:
            return {device.type: SHARE * count_free_bytes(device) for device in devices}
        total = float(self.cache_bytes)
        on_device = total if self.device == CPU else min(total, SHARE * count_free_bytes(self.device))
        return {device.type: limit for device, limit in zip(devices, (on_device, total - on_device), strict=False)}

    def _count_bytes(self, memory: str, chunk: Chunk) -> int:
        """Return the bytes that a chunk takes; torch rounds each block of pinned memory up to a power of two."""
        sizes = [tensor.nbytes for tensor in chunk.tensors()]
        return sum(sizes) if memory == self.device.type else sum(1 << (size - 1).bit_length() for size in sizes if size)

    @staticmethod
    def _keep_on_device(tensor: Tensor) -> Tensor:
        """Return the tensor, copied if it is a view, because keeping a view keeps the whole tensor behind it."""
        return tensor.clone() if tensor.untyped_storage().nbytes() > tensor.nbytes else tensor


def _pin(tensor: Tensor) -> Tensor:
    """Return a copy in pinned main memory, which a GPU can read while it computes."""
    return tensor.cpu().pin_memory()
