"""A store for the output of the frozen prefix: on the device, then in main memory; the rest is computed anew.

B images in one chunk.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from core.runtime.memory import free_bytes
from tasks.data.loaders import fixed_loader

AUTO = "auto"
SHARE = 0.5  # of the free memory; the rest is for the suffix, and for the next split
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Chunk:
    """What the suffix needs for some images: the tensors that cross the cut, and the labels (B,)."""

    crossing: tuple[Any, ...]
    labels_B: Tensor

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in (*self.crossing, self.labels_B) if isinstance(tensor, Tensor))

    def moved(self, move: Callable[[Tensor], Tensor]) -> "Chunk":
        """Return the chunk with `move` applied to each of its tensors."""
        return Chunk(tuple(move(part) if isinstance(part, Tensor) else part for part in self.crossing), move(self.labels_B))


class PrefixCache:
    """Chunks of one split, each computed once as far as memory reaches.

    Args:
        images: the split.
        compute: from a batch of images and their labels, as the loader gives them, to a `Chunk` on the device.
        cache_bytes: most bytes that are kept, first on the device and then, for a GPU, in pinned main memory; "auto"
            takes half of what is free in each when the first pass begins.
    """

    def __init__(
        self,
        images: Dataset,
        batch_size: int,
        compute: Callable[[Tensor, Tensor], Chunk],
        *,
        cache_bytes: float | str,
        num_workers: int | str,
        device: torch.device,
    ):
        self.images, self.batch_size, self.compute = images, batch_size, compute
        self.cache_bytes, self.num_workers, self.device = cache_bytes, num_workers, device
        self._kept: list[Chunk] | None = None  # the first chunks of the split, as many as fit
        self.summary = ""  # of what is kept, once that is known

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch_size)

    def __iter__(self) -> Iterator[Chunk]:
        """Yield every chunk, on the device."""
        if self._kept is None:
            yield from self._first_pass()
            return
        for chunk in self._kept:
            yield chunk.moved(lambda tensor: tensor.to(self.device, non_blocking=True))
        yield from self._computed(first=len(self._kept))

    def _computed(self, first: int) -> Iterator[Chunk]:
        """Compute the chunks from number `first` on."""
        rest = range(first * self.batch_size, len(self.images))
        if rest:
            for images_BCSS, labels_B in fixed_loader(Subset(self.images, rest), self.batch_size, self.num_workers, self.device):
                yield self.compute(images_BCSS, labels_B)

    def _first_pass(self) -> Iterator[Chunk]:
        """Compute every chunk and keep the first ones."""
        kept, places, full = [], self._places(), False
        taken = dict.fromkeys(places, 0)
        for chunk in self._computed(first=0):
            place = next((name for name, room in places.items() if taken[name] + chunk.nbytes <= room), None)
            full = full or place is None  # after the first chunk that does not fit, a smaller one would leave a gap
            if not full:
                taken[place] += chunk.nbytes
                kept.append(chunk if place == self.device.type else chunk.moved(lambda tensor: tensor.cpu().pin_memory()))
            yield chunk
        self._kept = kept
        where = " and ".join(f"{size / 1e6:,.0f} MB of {name} memory" for name, size in taken.items() if size)
        num_kept = min(len(kept) * self.batch_size, len(self.images))
        self.summary = f"the frozen part of {num_kept} of {len(self.images)} images is kept" + (f" in {where}" if where else "")
        if num_kept < len(self.images):
            self.summary += "; for the rest it is computed anew for each source (set scoring.cache_bytes to keep more)"

    def _places(self) -> dict[str, float]:
        """Return the bytes to be used in each kind of memory, in the order in which they are filled."""
        devices = [self.device] if self.device == CPU else [self.device, CPU]
        if self.cache_bytes == AUTO:
            return {device.type: SHARE * free_bytes(device) for device in devices}
        on_device = self.cache_bytes if self.device == CPU else min(self.cache_bytes, SHARE * free_bytes(self.device))
        return {device.type: room for device, room in zip(devices, (on_device, self.cache_bytes - on_device))}
