"""DataLoaders over images: the number of workers, shared memory, and augmentations that follow seed and image.

B images in one batch · C color channels · S image size in pixels.
"""

import logging
import random
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from pytorch_lightning.utilities.seed import isolate_rng
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Subset, TensorDataset

from core.runtime.errors import UserError
from core.runtime.memory import count_available_cores
from core.runtime.seeding import derive_seed

log = logging.getLogger(__name__)
AUTO = "auto"
CPU = torch.device("cpu")
# The largest number of workers of one training process. More than 16 rarely speed up a GPU, and each worker needs the
# memory of a Python process.
MAX_WORKERS = 16
BATCHES_PER_WORKER = 3  # two batches that torch prefetches, and one that is being made
SHARED_MEMORY = Path("/dev/shm")
Collate = Callable[[list[Any]], Any]  # makes a batch of items


class ImageLoader(DataLoader):
    """A DataLoader whose workers ignore Ctrl-C, so that only the process that started them handles it.

    Without this, Ctrl-C may kill a worker before torch makes it ignore the signal, and training ends in a traceback.
    """

    def __iter__(self) -> Any:
        with hold_back_interrupts():
            return super().__iter__()


@contextmanager
def hold_back_interrupts() -> Iterator[None]:
    """Delay Ctrl-C until the end of the block; processes that are started inside the block ignore it for good."""
    if threading.current_thread() is not threading.main_thread():  # Python handles signals in the main thread only
        yield
        return
    held: list[int] = []
    handler = signal.signal(
        signal.SIGINT, lambda number, _: held.append(number)
    )  # another thread may still receive the signal
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # new processes inherit the mask
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler)
        if held:
            signal.raise_signal(signal.SIGINT)


class Draw(NamedTuple):
    """One visit of a training image."""

    image: int  # the index of the image
    seed: int  # the seed of its augmentation


class SeededImages(Dataset):
    """Training images whose augmentation is decided by the seed in their `Draw`.

    An epoch therefore has the same augmented images with any number of workers, and after a resume. Reading an image
    does not change the random states of torch, NumPy and Python.
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
    """A random order of one process's images that depends on seed and epoch, with an augmentation seed per image."""

    def __init__(self, images: Dataset, *, processes: int, rank: int, seed: int):
        super().__init__(images, processes, rank, seed=derive_seed(seed, "order") % 2**31, drop_last=True)
        self.augmentation_seed = seed

    def __iter__(self) -> Iterator[Draw]:
        for index in super().__iter__():
            yield Draw(index, derive_seed(self.augmentation_seed, f"augmentation/{self.epoch}", index))


class StepOrder(EpochOrder):
    """The order of the images of a fixed number of steps, through as many epochs as they need.

    The length counts all steps. Only the steps from `first_step` on are drawn, as a resumed training needs them.
    """

    def __init__(self, images: Dataset, batch_size: int, *, num_steps: int, first_step: int, seed: int):
        super().__init__(images, processes=1, rank=0, seed=seed)
        self.batch_size, self.steps = batch_size, range(first_step, num_steps)

    def __len__(self) -> int:
        return self.steps.stop * self.batch_size

    def __iter__(self) -> Iterator[Draw]:
        steps_per_epoch = self.num_samples // self.batch_size
        draws: Iterator[Draw] = iter(())
        for step in self.steps:
            self.epoch, position = divmod(step, steps_per_epoch)
            if position == 0 or step == self.steps.start:
                draws = islice(super().__iter__(), position * self.batch_size, None)
            yield from islice(draws, self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Do nothing, because Lightning takes all steps for one epoch."""


def make_training_loader(
    images: Dataset,
    batch_size: int,
    seed: int,
    *,
    num_workers: int | str = 0,
    device: torch.device = CPU,
    epoch: int = 0,
    num_steps: int | None = None,
    first_step: int = 0,
    collate: Collate | None = None,
) -> DataLoader:
    """Return shuffled batches that depend on `seed` and the epoch only, so that a resumed training repeats no batch.

    Several training processes divide the images among them and skip the few that do not divide evenly. The remaining
    images at the end of an epoch are skipped as well, because batch statistics over a few images are noisy, and over
    one image they fail. A dataset that is smaller than one batch is used as a single batch.

    Args:
        images: The training images.
        batch_size: The number of images in one batch of this process.
        seed: The seed of the order and of the augmentations.
        num_workers: The number of processes that read images, or "auto".
        device: The device that computes; batches for a GPU are put into pinned memory.
        epoch: The first epoch; Lightning sets the following ones.
        num_steps: Yield the batches of this number of steps in one pass, through all epochs that they need, in one
            process. None yields one epoch in a pass.
        first_step: The number of steps to leave out at the beginning, if `num_steps` is set.
        collate: Makes a batch of items; None stacks images and labels.
    """
    processes, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    if num_steps is None:
        order = EpochOrder(images, processes=processes, rank=rank, seed=seed)
    else:
        batch_size = min(batch_size, count_images(images))
        order = StepOrder(images, batch_size, num_steps=num_steps, first_step=first_step, seed=seed)
    order.set_epoch(epoch)  # set it before the loader is iterated, because workers fetch their first batches at once
    workers = choose_workers(images, batch_size, num_workers=num_workers, device=device)
    # Without its own generator, every iterator would draw from torch's global generator.
    generator = torch.Generator().manual_seed(derive_seed(seed, "workers", rank))
    return ImageLoader(
        SeededImages(images),
        batch_size,
        sampler=order,
        drop_last=processes > 1 or count_images(images) >= batch_size,
        collate_fn=collate,
        generator=generator,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
    )


def make_fixed_loader(
    images: Dataset,
    batch_size: int,
    *,
    num_workers: int | str = 0,
    device: torch.device = CPU,
    keep_workers: bool = False,
    collate: Collate | None = None,
) -> DataLoader:
    """Return every image in order, for validation and scoring.

    Args:
        images: The split.
        batch_size: The number of images in one batch; the last batch may be smaller.
        num_workers: The number of processes that read images, or "auto".
        device: The device that computes; batches for a GPU are put into pinned memory.
        keep_workers: Keep the workers between passes, for a loader that is iterated in every epoch.
        collate: Makes a batch of items; None stacks images and labels.
    """
    workers = choose_workers(images, batch_size, num_workers=num_workers, device=device)
    return ImageLoader(
        images,
        batch_size,
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=keep_workers and workers > 0,
        pin_memory=device.type == "cuda",
    )


def choose_workers(images: Dataset, batch_size: int, *, num_workers: int | str, device: torch.device) -> int:
    """Return the number of processes that read images.

    "auto" means as many as the cores and shared memory allow. It means 0 if the CPU computes, since workers would take
    its cores, and 0 if the images are tensors in memory, since nothing is read.

    Raises:
        UserError: The batches of `num_workers` processes do not fit into shared memory.
    """
    if num_workers == AUTO:
        in_memory = isinstance(images.dataset if isinstance(images, Subset) else images, TensorDataset)
        if device.type == "cpu" or in_memory:
            return 0
        processes = dist.get_world_size() if dist.is_initialized() else 1
        wanted = min(MAX_WORKERS, max(1, count_available_cores() // processes))
    else:
        wanted = int(num_workers)
    if not wanted or not SHARED_MEMORY.is_dir():
        return wanted
    per_worker = BATCHES_PER_WORKER * batch_size * measure_image_bytes(images)
    free = shutil.disk_usage(SHARED_MEMORY).free
    if wanted * per_worker <= free:
        return wanted
    fitting = int(free // per_worker)
    shortage = (
        f"{wanted} workers need {wanted * per_worker / 1e6:.0f} MB of shared memory, but {SHARED_MEMORY} has only "
        f"{free / 1e6:.0f} MB free"
    )
    if num_workers != AUTO:
        raise UserError(
            f"task.data.num_workers={num_workers} is too many: {shortage}. Set task.data.num_workers=auto, or enlarge "
            "the shared memory (docker run --shm-size=8g)"
        )
    log.info(
        "Using %d workers to read images: %s. To use more, enlarge the shared memory (docker run --shm-size=8g)",
        fitting,
        shortage,
    )
    return fitting


def count_images(images: Dataset) -> int:
    """Return the number of images."""
    return len(images)  # type: ignore[arg-type]  # torch declares no length for `Dataset`, but all of ours have one


def measure_image_bytes(images: Dataset) -> int:
    """Return the size of the first image in bytes; all images of a dataset have the same size."""
    with isolate_rng(include_cuda=False):  # reading an image may draw random numbers for its augmentation
        return images[0][0].nbytes
