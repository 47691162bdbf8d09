"""Datasets that torchvision reads and, where they are missing and it can, downloads.

N images · C color channels · S image size in pixels.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from torch.utils.data import ConcatDataset, Dataset
from torchvision.datasets import utils
from torchvision.transforms import v2

from core.runtime.errors import UserError
from tasks.data.loaders import count_images
from tasks.data.splits import Colors, DataOptions, ImageData, TransformedImages, carve_validation

Load = Callable[[DataOptions], ImageData]
Open = Callable[[Path], Dataset]
Opened = TypeVar("Opened", bound=Dataset)
IMAGENET_COLORS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
PHOTO = 96  # pixels; larger images are photographs of many sizes, which are cropped instead of squeezed
HOW_TO_GET = (
    "put it there, or say with task.data.root=FOLDER where it is "
    "(task.data.verify=false admits an archive of the same format with other images)"
)


def torchvision_set(
    open_train: Open,
    open_test: Open,
    *,
    num_classes: int,
    image_size: int,
    colors: Colors,
    flips: bool = True,
    how_to_get: str = HOW_TO_GET,
) -> Load:
    """Return the loader of a dataset whose training and test images torchvision opens below a folder.

    Args:
        open_train: opens the training images.
        open_test: opens the test images.
        num_classes: of the dataset.
        image_size: S, unless `task.data.image_size` says otherwise.
        colors: mean and std of each channel.
        flips: whether a mirrored image is still of its class; digits are not.
        how_to_get: the end of the sentence about missing images.
    """

    def load(options: DataOptions) -> ImageData:
        train, test = (open_or_explain(opens, options, how_to_get) for opens in (open_train, open_test))
        return image_data(
            train, test, options, num_classes=num_classes, image_size=image_size, colors=colors, flips=flips
        )

    return load


def open_or_explain(opens: Callable[[Path], Opened], options: DataOptions, how_to_get: str) -> Opened:
    """Open some images under `options.root`, downloading them if torchvision can.

    Raises:
        UserError: they are not there and cannot be downloaded, or what is there is something else.
    """
    root = Path(options.root).expanduser()
    try:
        if options.verify:
            return opens(root)
        with unverified():
            return opens(root)
    except Exception as error:  # a damaged archive raises whatever the reader of its format does
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{options.dataset} was not found in {root.absolute()} and could not be downloaded ({reason}); {how_to_get}"
        ) from error


@contextmanager
def unverified() -> Iterator[None]:
    """Take any archive for the published one: torchvision compares all of them through one function."""
    compare = utils.check_md5
    utils.check_md5 = lambda *_, **__: True
    try:
        yield
    finally:
        utils.check_md5 = compare


def read_labels(images: Dataset) -> np.ndarray:
    """Return the label of every image (N,), without opening any.

    Each dataset of torchvision has its own name for them.
    """
    if isinstance(images, ConcatDataset):
        return np.concatenate([read_labels(part) for part in images.datasets])
    (labels,) = (getattr(images, name) for name in ("targets", "labels", "_labels") if hasattr(images, name))
    return np.asarray(labels)


def image_data(
    train: Dataset,
    test: Dataset,
    options: DataOptions,
    *,
    num_classes: int,
    image_size: int,
    colors: Colors,
    flips: bool = True,
    val: Dataset | None = None,
) -> ImageData:
    """Return the three splits over PIL images; without `val`, validation is carved out of train, never augmented."""
    size = options.image_size or image_size
    augmented, plain = make_transforms(size, image_size, flips)
    if val is not None:
        in_train, in_val = np.arange(count_images(train)), np.arange(count_images(val))
    else:
        in_train, in_val = carve_validation(read_labels(train), options.val_fraction, options.split_seed)
    return ImageData(
        train=TransformedImages(train, in_train, augmented),
        val=TransformedImages(train if val is None else val, in_val, plain),
        test=TransformedImages(test, range(count_images(test)), plain),
        num_classes=num_classes,
        channels=len(colors[0]),
        image_size=size,
        colors=options.colors(colors),
    )


def make_transforms(size: int, native_size: int, flips: bool) -> tuple[v2.Compose, v2.Compose]:
    """Return the transforms (for training, for anything else) from PIL images to tensors (C, S, S) of bytes."""
    to_tensor: list[Any] = [v2.ToImage(), v2.ToPureTensor()]
    mirror = [v2.RandomHorizontalFlip()] if flips else []
    if native_size > PHOTO:
        shrink = v2.Resize(round(size * 256 / 224), antialias=True)
        return v2.Compose([v2.RandomResizedCrop(size, antialias=True), *mirror, *to_tensor]), v2.Compose(
            [shrink, v2.CenterCrop(size), *to_tensor]
        )
    resize = [] if size == native_size else [v2.Resize((size, size), antialias=True)]
    return v2.Compose([*resize, v2.RandomCrop(size, padding=size // 8), *mirror, *to_tensor]), v2.Compose(
        [*resize, *to_tensor]
    )
