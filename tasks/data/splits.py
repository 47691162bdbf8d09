"""The three splits that every dataset gives, and how validation is carved out of train.

N images · C color channels · S image size in pixels.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset


@dataclass(frozen=True)
class DataOptions:
    """What a loader may be told: the `task.data` configuration, with the names users type."""

    dataset: str
    root: str
    verify: bool = True
    val_fraction: float = 0.1
    split_seed: int = 0  # splits and fixed distortions belong to the data, so that runs with other seeds stay comparable
    image_size: int | None = None  # None: the dataset's own
    num_workers: int = 0


@dataclass(frozen=True)
class ImageData:
    """Train (augmented), validation and test images, and the facts that a classifier needs.

    Items are (image (C, S, S) float32, label).
    """

    train: Dataset
    val: Dataset
    test: Dataset
    num_classes: int
    channels: int
    image_size: int

    @property
    def facts(self) -> dict[str, int]:
        """What a classifier must know of the images."""
        return {"num_classes": self.num_classes, "channels": self.channels, "image_size": self.image_size}

    def split(self, name: str) -> Dataset:
        """The split called "train", "val" or "test"."""
        return {"train": self.train, "val": self.val, "test": self.test}[name]

    def fingerprint(self) -> str:
        """Identifies the images: their numbers, and the content of the first few of each fixed split."""
        digest = hashlib.sha256(f"{len(self.train)}/{len(self.val)}/{len(self.test)}".encode())
        for split in (self.val, self.test):
            for index in range(min(8, len(split))):
                image, label = split[index]
                digest.update(image.numpy().tobytes() + bytes(str(int(label)), "ascii"))
        return digest.hexdigest()[:16]


class TransformedImages(Dataset):
    """Some items of `images`, each through `transform`."""

    def __init__(self, images: Sequence[tuple[Any, int]] | Dataset, indices: Sequence[int], transform: Callable[[Any], Tensor]):
        self.images, self.indices, self.transform = images, indices, transform

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self.images[int(self.indices[index])]
        return self.transform(image), int(label)


def carve_validation(labels: Sequence[int], fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split indices into (train, val), stratified: each class gives `fraction` of its images, at least one."""
    labels, random = np.asarray(labels), np.random.default_rng(seed)
    val = []
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        val.append(members[: max(1, round(fraction * len(members)))])
    val = np.sort(np.concatenate(val))
    return np.setdiff1d(np.arange(len(labels)), val), val


def fixed_sample(split: Dataset, count: int, seed: int = 0) -> TensorDataset:
    """At most `count` random items of an augmented split, each augmented once: the same at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        items = [split[index] for index in torch.randperm(len(split))[:count].tolist()]
    return TensorDataset(torch.stack([image for image, _ in items]), torch.tensor([label for _, label in items]))
