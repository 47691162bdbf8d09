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
from tasks.data.loaders import count_images, fixed_loader

AUTO = "auto"
SHARE = 0.4  # of the free memory of each kind, for each split in turn: after train, val and test a fifth is still free
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Chunk:
    """What the suffix needs for some images: the tensors that cross the cut, and the labels (B,)."""

    crossing: tuple[Any, ...]
    labels_B: Tensor

    def tensors(self) -> Iterator[Tensor]:
        """Yield every tensor of the chunk."""
        yield from (part for part in (*self.crossing, self.labels_B) if isinstance(part, Tensor))

    def moved(self, move: Callable[[Tensor], Tensor]) -> "Chunk":
        """Return the chunk with `move` applied to each of its tensors."""
        return Chunk(
            tuple(move(part) if isinstance(part, Tensor) else part for part in self.crossing), move(self.labels_B)
        )


class PrefixCache:
    """Chunks of one split, each computed once as far as memory reaches.

    Args:
        images: the split.
        compute: from a batch of images and their labels, as the loader gives them, to a `Chunk` on the device.
        cache_bytes: most bytes that are kept, first on the device and then, for a GPU, in pinned main memory; "auto"
            takes a share of what is free in each when the first pass begins.
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
        return -(-count_images(self.images) // self.batch_size)

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
        rest = range(first * self.batch_size, count_images(self.images))
        if rest:
            images = Subset(self.images, rest) if first else self.images
            loader = fixed_loader(images, self.batch_size, num_workers=self.num_workers, device=self.device)
            for images_BCSS, labels_B in loader:
                yield self.compute(images_BCSS, labels_B)

    def _first_pass(self) -> Iterator[Chunk]:
        """Compute every chunk and keep the first ones."""
        kept, places, full = [], self._places(), False
        taken = dict.fromkeys(places, 0)
        for chunk in self._computed(first=0):
            yield chunk
            sizes = {place: self._bytes_in(place, chunk) for place in places}
            fitting = [place for place in places if taken[place] + sizes[place] <= places[place]]
            full = full or not fitting  # after the first chunk that does not fit, a smaller one would leave a gap
            if not full:
                place = fitting[0]
                taken[place] += sizes[place]
                kept.append(chunk.moved(self._keep_on_device if place == self.device.type else _pin))
        self._kept = kept
        where = " and ".join(f"{size / 1e6:,.0f} MB of {name} memory" for name, size in taken.items() if size)
        num_images = count_images(self.images)
        num_kept = min(len(kept) * self.batch_size, num_images)
        self.summary = f"the frozen part of {num_kept} of {num_images} images is kept"
        self.summary += f" in {where}" if where else ""
        if num_kept < num_images:
            self.summary += "; for the rest it is computed anew for each source (set scoring.cache_bytes to keep more)"

    def _places(self) -> dict[str, float]:
        """Return the bytes to be used in each kind of memory, in the order in which they are filled."""
        devices = [self.device] if self.device == CPU else [self.device, CPU]
        if self.cache_bytes == AUTO:
            return {device.type: SHARE * free_bytes(device) for device in devices}
        asked = float(self.cache_bytes)
        on_device = asked if self.device == CPU else min(asked, SHARE * free_bytes(self.device))
        return {device.type: room for device, room in zip(devices, (on_device, asked - on_device), strict=False)}

    def _bytes_in(self, place: str, chunk: Chunk) -> int:
        """Return what keeping a chunk takes; torch rounds each block of pinned memory up to a power of two."""
        sizes = [tensor.nbytes for tensor in chunk.tensors()]
        return sum(sizes) if place == self.device.type else sum(1 << (size - 1).bit_length() for size in sizes if size)

    @staticmethod
    def _keep_on_device(tensor: Tensor) -> Tensor:
        """Return the tensor without what it is a view of, which would be kept with it."""
        return tensor.clone() if tensor.untyped_storage().nbytes() > tensor.nbytes else tensor


def _pin(tensor: Tensor) -> Tensor:
    """Return a copy in main memory that a GPU can read while it computes."""
    return tensor.cpu().pin_memory()
