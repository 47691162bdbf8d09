"""Datasets that torchvision reads and, where they are missing, downloads."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch.utils.data import Dataset
from torchvision import datasets
from torchvision.transforms import v2

from core.runtime.errors import UserError
from tasks.data.splits import DataOptions, ImageData, TransformedImages, carve_validation

Load = Callable[[DataOptions], ImageData]


class AnyCIFAR10(datasets.CIFAR10):
    """CIFAR-10's format without its checksums: an archive of the same layout may hold other images."""

    tgz_md5 = None
    train_list = [[name, None] for name, _ in datasets.CIFAR10.train_list]
    test_list = [[name, None] for name, _ in datasets.CIFAR10.test_list]
    meta = {**datasets.CIFAR10.meta, "md5": None}


class AnyCIFAR100(datasets.CIFAR100):
    """CIFAR-100's format without its checksums."""

    tgz_md5 = None
    train_list = [[name, None] for name, _ in datasets.CIFAR100.train_list]
    test_list = [[name, None] for name, _ in datasets.CIFAR100.test_list]
    meta = {**datasets.CIFAR100.meta, "md5": None}


def cifar(verified: type[datasets.CIFAR10], unverified: type[datasets.CIFAR10], num_classes: int, mean: Sequence[float], std: Sequence[float]) -> Load:
    """The loader of CIFAR-10 or CIFAR-100: 32×32 color images, crops and flips while training."""

    def load(options: DataOptions) -> ImageData:
        kind = verified if options.verify else unverified
        train, test = (open_or_explain(kind, options, train=train) for train in (True, False))
        return image_data(train, test, train.targets, options, num_classes=num_classes, image_size=32, mean=mean, std=std)

    return load


def open_or_explain(kind: Callable[..., Dataset], options: DataOptions, **arguments: bool) -> Dataset:
    """Open a torchvision dataset under `options.root`, downloading it if need be.

    Raises:
        UserError: it is not there and cannot be downloaded, or what is there is not it.
    """
    root = Path(options.root).expanduser()
    try:
        return kind(root, download=True, **arguments)
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{options.dataset} was not found in {root.absolute()} and could not be downloaded ({reason}); put it there, or say with "
            "task.data.root=FOLDER where it is (task.data.verify=false admits an archive of the same format with other images)"
        ) from error


def image_data(
    train: Dataset,
    test: Dataset,
    train_labels: Sequence[int],
    options: DataOptions,
    *,
    num_classes: int,
    image_size: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> ImageData:
    """The three splits over color PIL images: validation is carved out of train and never augmented."""
    size = options.image_size or image_size
    resize = [] if size == image_size else [v2.Resize((size, size), antialias=True)]
    to_tensor = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)]
    plain = v2.Compose([*resize, *to_tensor])
    augmented = v2.Compose([*resize, v2.RandomCrop(size, padding=size // 8), v2.RandomHorizontalFlip(), *to_tensor])
    train_indices, val_indices = carve_validation(train_labels, options.val_fraction, options.split_seed)
    return ImageData(
        train=TransformedImages(train, train_indices, augmented),
        val=TransformedImages(train, val_indices, plain),
        test=TransformedImages(test, range(len(test)), plain),
        num_classes=num_classes,
        channels=3,
        image_size=size,
    )
