"""The three splits that every dataset has, and the way validation images are split off the training images.

N images · C color channels · S image size in pixels.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset, default_collate
from torchvision.transforms import v2

from core.runtime.errors import UserError
from tasks.data.digests import (
    Originals,
    describe_label,
    digest_fixed_images,
    digest_items,
    digest_originals,
    unreadable,
    view_bytes,
)
from tasks.data.loaders import Collate, count_images
from tasks.objectives.classification import Classification
from tasks.objectives.objective import Objective

SPLITS = ("train", "val", "test")
Colors = tuple[Sequence[float], Sequence[float]]  # mean and std of each channel


@dataclass(frozen=True)
class DataOptions:
    """The `task.data` section, and the normalization that the network's pretrained weights expect.

    Args:
        dataset: A name in `tasks.data.datasets.DATASETS`.
        root: The folder of the images.
        verify: Compare archives with their published checksums.
        val_fraction: The share of the training images that becomes the validation split.
        split_seed: The seed of splits and fixed distortions. It is separate from the run's seed, so that runs with
            different seeds use the same data and stay comparable.
        image_size: S, in pixels; None for the dataset's own size.
        mean: The mean of each channel, or one number for all; None for the mean of `weights`, or else of the dataset.
        std: The standard deviation of each channel, in the same form as `mean`.
        num_workers: The number of processes that read images, or "auto".
        diffusion: The noise schedule, the sampling and the features of a task of generation
            (`tasks.data.noisy_images.DiffusionOptions`); other tasks ignore it.
        weights: The mean and std that the pretrained weights were trained with; not part of the configuration.
    """

    dataset: str
    root: str
    verify: bool = True
    val_fraction: float = 0.1
    split_seed: int = 0
    image_size: int | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    num_workers: int | str = "auto"
    diffusion: Mapping[str, Any] = field(default_factory=dict)
    weights: Colors | None = None

    def choose_colors(self, dataset_colors: Colors) -> Colors:
        """Return the mean and std that normalize the images.

        These are `mean` and `std` if they are set, else `weights` if they have as many channels as the images, else
        `dataset_colors`.

        Raises:
            UserError: Only one of `mean` and `std` is set, they do not fit the number of channels, or a std is not
                positive.
        """
        channels = len(dataset_colors[0])
        if self.mean is None and self.std is None:
            return self.weights if self.weights and len(self.weights[0]) == channels else dataset_colors
        mean, std = (spread_over_channels(values, channels) for values in (self.mean, self.std))
        if mean is None or std is None or min(std) <= 0:
            raise UserError(
                f"task.data.mean={self.mean} and task.data.std={self.std} must both be lists of 1 or {channels} "
                "numbers, with std above 0. Set for example task.data.mean=[0.5] task.data.std=[0.25], or remove both"
            )
        return mean, std


def spread_over_channels(values: Any, channels: int) -> list[float] | None:
    """Return one number for each channel, from a list of that length or of length 1; None for anything else."""
    if not isinstance(values, Sequence) or len(values) not in (1, channels):
        return None
    if not all(type(value) in (int, float) for value in values):
        return None
    return [*values] * (channels // len(values))


class ColorNormalizer(nn.Module):
    """A module that converts images to float32 with zero mean and unit variance in each channel, on their device.

    A batch is a tensor, or a list of images that differ in size. Bytes are scaled to 0 … 1 first. The results equal
    torchvision's ToDtype and Normalize bit by bit.
    """

    def __init__(self, colors: Colors):
        super().__init__()
        for name, values in zip(("mean_C11", "std_C11"), colors, strict=True):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(-1, 1, 1), persistent=False)

    def forward(self, images_BCSS: Any) -> Any:
        """Return the normalized batch."""
        if isinstance(images_BCSS, list):
            return [self(image_CSS) for image_CSS in images_BCSS]
        return (v2.functional.to_dtype(images_BCSS, torch.float32, scale=True) - self.mean_C11) / self.std_C11


@dataclass(frozen=True)
class TaskData:
    """Training (augmented), validation and test items, and the objective that networks learn on them.

    Items are pairs (input, target). `make_normalizer` prepares batches of inputs for the network.
    """

    train: Dataset
    val: Dataset
    test: Dataset
    objective: Objective
    facts: Mapping[str, int] = field(default_factory=dict)  # the numbers that a network for this data is built from
    colors: Colors | None = None  # mean and std of each channel; None for inputs that need no normalization
    originals: Originals | None = None  # the images before they were prepared; None for the user's own datasets
    # By split, the group of each item as int64 (N,). The items of a group are versions of one image, so they are not
    # independent of each other. In a split that is not named, every item is a group of its own.
    groups: Mapping[str, np.ndarray] = field(default_factory=dict)
    # Makes a batch of several items, where they differ in size; None stacks them.
    collate: Collate | None = None
    # Sets of out-of-distribution images by name, which belong to no class. They have the form of the validation images
    # and the label 0.
    ood: Mapping[str, Dataset] = field(default_factory=dict)

    def make_normalizer(self) -> nn.Module:
        """Return a module that prepares a batch of inputs for the network."""
        return ColorNormalizer(self.colors) if self.colors else nn.Identity()

    @property
    def provenance(self) -> dict[str, Any]:
        """Entries of a stored file that let its networks be built and used without the images."""
        colors = self.colors or find_normalization(self.train)
        if colors is None:
            return {"facts": dict(self.facts)}
        mean, std = map(list, colors)
        return {"facts": dict(self.facts), "normalization": {"mean": mean, "std": std}}

    @property
    def noun(self) -> str:
        """What the splits consist of, for log lines; only images have facts."""
        return "images" if self.facts else "items"

    def split(self, name: str) -> Dataset:
        """Return the split called "train", "val" or "test"."""
        return {"train": self.train, "val": self.val, "test": self.test}[name]

    @cached_property
    def digests(self) -> dict[str, str]:
        """A digest of all items of each split, which decides whether checkpoints and scores are reused.

        It is computed once, because every item is checked.
        """
        if self.originals is not None:
            return digest_originals(self.originals)
        return digest_items({name: self.split(name) for name in SPLITS})

    @cached_property
    def ood_digests(self) -> dict[str, str]:
        """A digest of each set in `ood`, which decides whether scores are reused, but not whether checkpoints are."""
        return {name: digest_fixed_images(images) for name, images in self.ood.items()}

    @property
    def preparation(self) -> dict[str, Any]:
        """What decides what a network sees of the inputs, and what the objective records."""
        transforms = {name: getattr(self.split(name), "transform", None) for name in SPLITS if self.originals}
        return {
            "facts": dict(self.facts),
            "colors": self.colors and [list(values) for values in self.colors],
            "transforms": {name: repr(transform) for name, transform in transforms.items() if transform},
            "objective": self.objective.record(),
        }

    def fingerprint(self) -> str:
        """Return a hash of the number of items in each split, and of the first items of validation and test.

        It covers the items as the network sees them, while `digests` cover the files that they are made from. Files of
        earlier versions hold this hash alone.
        """
        normalize = self.make_normalizer()
        digest = hashlib.sha256("/".join(str(count_images(self.split(name))) for name in SPLITS).encode())
        for split in (self.val, self.test):
            for index in range(min(8, count_images(split))):
                value, target = split[index]
                digest.update(view_bytes(normalize(value)).data)
                digest.update(describe_label(target).encode())
        return digest.hexdigest()[:16]

    def find_other_splits(self, provenance: Mapping[str, Any]) -> list[str]:
        """Return the names of the splits that hold other items than those that a stored file was made with.

        Args:
            provenance: The provenance of the file. Files of earlier versions do not tell which split differs, so all
                names are returned if one does.
        """
        if (stored := provenance.get("images")) is None:
            return [] if self.fingerprint() == provenance["data_fingerprint"] else list(SPLITS)
        if others := [name for name in SPLITS if self.digests[name] != stored.get(name)]:
            return others
        # Equal files become other images if the code that crops or distorts them has changed.
        return [] if self.fingerprint() == provenance["data_fingerprint"] else ["val", "test"]


def gather_labeled_images(
    train: Dataset, val: Dataset, test: Dataset, *, num_classes: int, channels: int, image_size: int, **further: Any
) -> TaskData:
    """Return the data of a classification of images.

    Args:
        train: Training images, of which each item is (image (C, S, S), label). Images consist of bytes or float32
            numbers.
        val: Validation images, in the same form.
        test: Test images, in the same form.
        num_classes: The number of classes.
        channels: C.
        image_size: S, in pixels.
        further: Other arguments of `TaskData`.
    """
    facts = {"num_classes": num_classes, "channels": channels, "image_size": image_size}
    return TaskData(train, val, test, Classification(num_classes), facts, **further)


def require_equal_shapes(images: Dataset, validation: Dataset, source: str) -> None:
    """Check that the first image of a set has the shape of the first validation image.

    Raises:
        UserError: The shapes differ. The error begins with `source`, the option that chose the set and its name.
    """
    given, expected = (tuple(dataset[0][0].shape) for dataset in (images, validation))
    if given != expected:
        raise UserError(
            f"{source} holds images of shape {given}, but the validation images have shape {expected}. Remove it, "
            f"or use images of shape {expected}"
        )


def find_normalization(images: Dataset) -> Colors | None:
    """Return mean and std of a v2.Normalize among the transforms of a user's own dataset; None if there is none."""
    transform = getattr(images, "transform", None)
    steps = getattr(transform, "transforms", [transform])
    return next(((step.mean, step.std) for step in steps if isinstance(step, v2.Normalize)), None)


class TransformedImages(Dataset):
    """Some items of `images`, each passed through `transform`.

    Reading an item raises `UserError` if its file cannot be read.
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
        except OSError as error:
            raise unreadable(error) from error
        return self.transform(image), int(label)


class ImagesWithoutClass(TransformedImages):
    """Some items of `images`, each passed through `transform`, that belong to no class of the task and get label 0."""

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return super().__getitem__(index)[0], 0


def carve_validation(labels: Sequence[int] | np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices (train, val) of a stratified split.

    Args:
        labels: The label of every image.
        fraction: The share of each class that goes to val, at least one image.
        seed: The seed of the choice.
    """
    labels_N, random = np.asarray(labels), np.random.default_rng(seed)
    chosen = []
    for label in np.unique(labels_N):
        members = random.permutation(np.flatnonzero(labels_N == label))
        chosen.append(members[: max(1, round(fraction * len(members)))])
    val = np.sort(np.concatenate(chosen))
    return np.setdiff1d(np.arange(len(labels_N)), val), val


class FixedItems(Dataset):
    """Items in memory that differ in size."""

    def __init__(self, items: Sequence[tuple[Any, Any]]):
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self.items[index]


def draw_fixed_sample(split: Dataset, count: int, seed: int = 0) -> Dataset:
    """Return at most `count` random items of an augmented split, each augmented once; a seed gives the same items."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        items = [split[index] for index in torch.randperm(count_images(split))[:count].tolist()]
    if isinstance(items[0][1], Mapping):  # the boxes of an image
        return FixedItems(items)
    return TensorDataset(*default_collate(items))
