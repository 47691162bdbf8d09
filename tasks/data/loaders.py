"""DataLoaders over images: their workers, their memory, and randomness that follows the image.

B images in one batch · C color channels · S image size in pixels.
"""

import logging
import random
import shutil
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from pytorch_lightning.utilities.seed import isolate_rng
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Subset, TensorDataset

from core.runtime.errors import UserError
from core.runtime.memory import available_cores
from core.runtime.seeding import derive_seed

log = logging.getLogger(__name__)
AUTO = "auto"
CPU = torch.device("cpu")
MOST_WORKERS = 16  # of one process; beyond that a GPU is rarely waited for, and each worker holds a copy of Python
BATCHES_IN_FLIGHT = 3  # of each worker: two that torch prefetches, one in the making
SHARED_MEMORY = Path("/dev/shm")


class ImageLoader(DataLoader):
    """A DataLoader whose workers leave Ctrl-C to the process that started them.

    Otherwise a worker may die of it before torch tells it not to, and the training ends in a traceback.
    """

    def __iter__(self) -> Any:
        with interrupts_held_back():
            return super().__iter__()


@contextmanager
def interrupts_held_back() -> Iterator[None]:
    """Hold Ctrl-C back until the end of the block; processes that are started inside never receive it."""
    if threading.current_thread() is not threading.main_thread():  # only that one is interrupted
        yield
        return
    held: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, _: held.append(number))  # other threads may receive it
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which new processes inherit
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler)
        if held:
            signal.raise_signal(signal.SIGINT)


class Draw(NamedTuple):
    """One visit of a training image."""

    image: int  # its index
    seed: int  # of its augmentation


class SeededImages(Dataset):
    """Training images whose augmentation follows the seed in their `Draw`.

    The same epoch therefore has the same images with any number of workers, and after a resume. The random states of
    torch, NumPy and Python are left as they were.
    """

    def __init__(self, images: Dataset):
        self.images = images

    def __len__(self) -> int:
        return count_images(self.images)

    def __getitems__(self, draws: Sequence[Draw]) -> list[Any]:
        with isolate_rng(include_cuda=False):
            return [self._seeded_item(draw) for draw in draws]

    def _seeded_item(self, draw: Draw) -> Any:
        torch.default_generator.manual_seed(draw.seed)
        random.seed(draw.seed)
        np.random.seed(draw.seed % 2**32)
        return self.images[draw.image]


class EpochOrder(DistributedSampler):
    """The images of one process in a random order that follows the seed and the epoch, each with a seed of its own."""

    def __init__(self, images: Dataset, *, processes: int, rank: int, seed: int):
        super().__init__(images, processes, rank, seed=derive_seed(seed, "order") % 2**31, drop_last=True)
        self.augmentation_seed = seed

    def __iter__(self) -> Iterator[Draw]:
        for index in super().__iter__():
            yield Draw(index, derive_seed(self.augmentation_seed, f"augmentation/{self.epoch}", index))


def training_loader(
    images: Dataset,
    batch_size: int,
    seed: int,
    *,
    num_workers: int | str = 0,
    device: torch.device = CPU,
    epoch: int = 0,
) -> DataLoader:
    """Return shuffled batches that follow `seed` and the epoch alone, so that a resumed training repeats none.

    Processes that train together share the images out and skip the few that cannot be shared evenly. The images left
    over at the end of an epoch make no batch: statistics of a few images are noise, and of one image an error.

    Args:
        images: the training images.
        batch_size: images of one batch in this process.
        seed: of the order and the augmentations.
        num_workers: processes that read images, or "auto".
        device: where the batches are going.
        epoch: the one to begin with; Lightning sets the following ones.
    """
    processes, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    order = EpochOrder(images, processes=processes, rank=rank, seed=seed)
    order.set_epoch(epoch)  # before the loader is iterated: workers fetch their first batches at once
    full = processes > 1 or count_images(images) >= batch_size
    workers = choose_workers(images, batch_size, num_workers=num_workers, device=device)
    own = torch.Generator().manual_seed(
        derive_seed(seed, "workers", rank)
    )  # else an iterator would draw from the global one
    return ImageLoader(
        SeededImages(images),
        batch_size,
        sampler=order,
        drop_last=full,
        generator=own,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
    )


def fixed_loader(
    images: Dataset,
    batch_size: int,
    *,
    num_workers: int | str = 0,
    device: torch.device = CPU,
    keep_workers: bool = False,
) -> DataLoader:
    """Return every image in order, for validation and scoring.

    Args:
        images: the split.
        batch_size: the last batch may be smaller.
        num_workers: processes that read images, or "auto".
        device: where the batches are going.
        keep_workers: for a loader that is iterated in every epoch.
    """
    workers = choose_workers(images, batch_size, num_workers=num_workers, device=device)
    return ImageLoader(
        images,
        batch_size,
        num_workers=workers,
        persistent_workers=keep_workers and workers > 0,
        pin_memory=device.type == "cuda",
    )


def choose_workers(images: Dataset, batch_size: int, *, num_workers: int | str, device: torch.device) -> int:
    """Return how many processes read images: as asked, or for "auto" as many as the cores and shared memory allow.

    A CPU that computes needs its cores itself, and tensors in memory need no reading, so both get none.

    Raises:
        UserError: the batches of this many workers do not fit into shared memory.
    """
    if num_workers == AUTO:
        in_memory = isinstance(images.dataset if isinstance(images, Subset) else images, TensorDataset)
        if device.type == "cpu" or in_memory:
            return 0
        processes = dist.get_world_size() if dist.is_initialized() else 1
        wanted = min(MOST_WORKERS, max(1, available_cores() // processes))
    else:
        wanted = int(num_workers)
    if not wanted or not SHARED_MEMORY.is_dir():
        return wanted
    per_worker = BATCHES_IN_FLIGHT * batch_size * bytes_per_item(images)
    free = shutil.disk_usage(SHARED_MEMORY).free
    if wanted * per_worker <= free:
        return wanted
    megabytes = f"{wanted * per_worker / 1e6:.0f} MB of shared memory, {SHARED_MEMORY} has {free / 1e6:.0f} MB free"
    needed = f"{wanted} workers need {megabytes}"
    if num_workers != AUTO:
        raise UserError(
            f"task.data.num_workers={num_workers}: {needed}; "
            "set task.data.num_workers=auto, or enlarge it (docker run --shm-size=8g)"
        )
    fitting = int(free // per_worker)
    log.info("%s: images are read by %d workers; enlarge it for more (docker run --shm-size=8g)", needed, fitting)
    return fitting


def count_images(images: Dataset) -> int:
    """Return the number of images, which torch leaves out of what every `Dataset` says."""
    return len(images)  # type: ignore[arg-type]  # all of ours have a length


def bytes_per_item(images: Dataset) -> int:
    """Return the size of the first image, which stands for all."""
    with isolate_rng(include_cuda=False):  # looking at an image may draw its augmentation
        return images[0][0].nbytes
