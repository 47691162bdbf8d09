"""The three splits that every dataset gives, and how validation is carved out of train.

N images · C color channels · S image size in pixels.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset
from torchvision.transforms import v2

from core.runtime.errors import UserError
from tasks.data.loaders import count_images

SPLITS = ("train", "val", "test")
Colors = tuple[Sequence[float], Sequence[float]]  # mean and std of each channel


@dataclass(frozen=True)
class DataOptions:
    """The `task.data` section, and the colors that the network's weights want."""

    dataset: str
    root: str
    verify: bool = True
    val_fraction: float = 0.1
    split_seed: int = (
        0  # splits and fixed distortions belong to the data, so that runs with other seeds stay comparable
    )
    image_size: int | None = None  # None: the dataset's own
    mean: Sequence[float] | None = (
        None  # of each channel, or one for all; None: of the weights, or else the dataset's own
    )
    std: Sequence[float] | None = None
    num_workers: int | str = "auto"
    weights: Colors | None = None  # mean and std that pretrained weights were trained with; not of the configuration

    def colors(self, own: Colors) -> Colors:
        """Return what images are normalized with.

        That is `mean` and `std` where they are given, then the colors of `weights` if they fit, then `own`.

        Raises:
            UserError: only one of them, another number of values than channels, or a std that is not positive.
        """
        if self.mean is None and self.std is None:
            return self.weights if self.weights and len(self.weights[0]) == len(own[0]) else own
        channels = len(own[0])
        mean, std = (spread_over_channels(values, channels) for values in (self.mean, self.std))
        if mean is None or std is None or min(std) <= 0:
            raise UserError(
                f"task.data.mean={self.mean}, task.data.std={self.std}: expected both as lists of 1 or {channels} "
                "numbers, std above 0, for example task.data.mean=[0.5] task.data.std=[0.25]"
            )
        return mean, std


def spread_over_channels(values: Any, channels: int) -> list[float] | None:
    """Return one number for each channel from as many or a single one; None for anything else."""
    if not isinstance(values, Sequence) or len(values) not in (1, channels):
        return None
    if not all(type(value) in (int, float) for value in values):
        return None
    return [*values] * (channels // len(values))


class ColorNormalizer(nn.Module):
    """Bring images to float32 with zero mean and unit variance in each color, on the device they are on.

    Bytes become numbers from 0 to 1 first. The same numbers as torchvision's ToDtype and Normalize, to the last digit.
    """

    def __init__(self, colors: Colors):
        super().__init__()
        for name, values in zip(("mean_C11", "std_C11"), colors, strict=True):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(-1, 1, 1), persistent=False)

    def forward(self, images_BCSS: Tensor) -> Tensor:
        """Return the batch, normalized."""
        return (v2.functional.to_dtype(images_BCSS, torch.float32, scale=True) - self.mean_C11) / self.std_C11


@dataclass(frozen=True)
class ImageData:
    """Train (augmented), validation and test images, and the facts that a classifier needs.

    Items are (image (C, S, S), label): bytes, or float32 numbers. `make_normalizer` prepares batches of them for the
    network.
    """

    train: Dataset
    val: Dataset
    test: Dataset
    num_classes: int
    channels: int
    image_size: int
    colors: Colors | None = None  # mean and std of each channel; None for images that are ready for the network

    def make_normalizer(self) -> nn.Module:
        """Return a module that prepares a batch of images for the network."""
        return ColorNormalizer(self.colors) if self.colors else nn.Identity()

    @property
    def about(self) -> dict[str, Any]:
        """Entries of a stored file from which its networks can be built and fed without the images."""
        colors = self.colors or own_normalization(self.train)
        if colors is None:
            return {"facts": self.facts}
        mean, std = map(list, colors)
        return {"facts": self.facts, "normalization": {"mean": mean, "std": std}}

    @property
    def facts(self) -> dict[str, int]:
        """What a classifier must know of the images."""
        return {"num_classes": self.num_classes, "channels": self.channels, "image_size": self.image_size}

    def split(self, name: str) -> Dataset:
        """Return the split called "train", "val" or "test"."""
        return {"train": self.train, "val": self.val, "test": self.test}[name]

    def fingerprint(self) -> str:
        """Return what identifies the images: their numbers, and the content of the first few of each fixed split."""
        normalize = self.make_normalizer()
        digest = hashlib.sha256("/".join(str(count_images(self.split(name))) for name in SPLITS).encode())
        for split in (self.val, self.test):
            for index in range(min(8, count_images(split))):
                image, label = split[index]
                digest.update(normalize(image).numpy().tobytes() + bytes(str(int(label)), "ascii"))
        return digest.hexdigest()[:16]


def own_normalization(images: Dataset) -> Colors | None:
    """Return mean and std of the v2.Normalize in a user's own dataset, to be recorded; None where it shows none."""
    transform = getattr(images, "transform", None)
    steps = getattr(transform, "transforms", [transform])
    return next(((step.mean, step.std) for step in steps if isinstance(step, v2.Normalize)), None)


class TransformedImages(Dataset):
    """Some items of `images`, each through `transform`.

    Raises:
        UserError: for an item whose file cannot be read.
    """

    def __init__(
        self,
        images: Sequence[tuple[Any, int]] | Dataset,
        indices: Sequence[int] | np.ndarray,
        transform: Callable[[Any], Tensor],
    ):
        self.images, self.indices, self.transform = images, indices, transform

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        try:
            image, label = self.images[int(self.indices[index])]
        except OSError as error:  # torchvision takes a folder that is there for a whole one
            raise UserError(
                f"an image cannot be read ({error}); if its download was interrupted, delete the folder, "
                "and it is downloaded again"
            ) from error
        return self.transform(image), int(label)


def carve_validation(labels: Sequence[int] | np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split indices into (train, val), stratified: each class gives `fraction` of its images, at least one."""
    labels_N, random = np.asarray(labels), np.random.default_rng(seed)
    chosen = []
    for label in np.unique(labels_N):
        members = random.permutation(np.flatnonzero(labels_N == label))
        chosen.append(members[: max(1, round(fraction * len(members)))])
    val = np.sort(np.concatenate(chosen))
    return np.setdiff1d(np.arange(len(labels_N)), val), val


def fixed_sample(split: Dataset, count: int, seed: int = 0) -> TensorDataset:
    """Return at most `count` random items of an augmented split, each augmented once: the same at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        items = [split[index] for index in torch.randperm(count_images(split))[:count].tolist()]
    return TensorDataset(torch.stack([image for image, _ in items]), torch.tensor([label for _, label in items]))
