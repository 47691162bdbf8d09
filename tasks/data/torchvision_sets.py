"""Datasets that torchvision reads and, if they are missing, downloads.

N images · C color channels · S image size in pixels.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from torch.utils.data import Dataset, Subset
from torchvision.datasets import utils
from torchvision.transforms import v2

from core.runtime.errors import UserError
from tasks.data.digests import Originals, read_labels
from tasks.data.loaders import count_images
from tasks.data.splits import Colors, DataOptions, TaskData, TransformedImages, carve_validation, gather_labeled_images

Load = Callable[[DataOptions], TaskData]
Open = Callable[[Path], Dataset]
Opened = TypeVar("Opened", bound=Dataset)
IMAGENET_COLORS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
LARGEST_FIXED_SIZE = 96  # pixels; datasets of larger images hold photographs of many sizes, which are cropped
HOW_TO_GET = (
    "Connect to the internet to download them, put the archives there, or set task.data.root=FOLDER to the folder that "
    "holds them. Set task.data.verify=false to accept archives of the same format with other images"
)


def make_load(
    open_train: Open,
    open_test: Open,
    *,
    num_classes: int,
    image_size: int,
    colors: Colors,
    flips: bool = True,
    how_to_get: str = HOW_TO_GET,
) -> Load:
    """Return the function that loads the three splits of one dataset.

    Args:
        open_train: Opens the training images below a folder.
        open_test: Opens the test images below a folder.
        num_classes: The number of classes.
        image_size: S, the default of `task.data.image_size`.
        colors: The mean and std of each channel.
        flips: Whether to mirror training images at random; a mirrored digit is no longer that digit.
        how_to_get: The advice that the error about missing images gives.
    """

    def load(options: DataOptions) -> TaskData:
        train, test = (open_or_explain(opener, options, how_to_get) for opener in (open_train, open_test))
        return make_image_data(
            train, test, options, num_classes=num_classes, image_size=image_size, colors=colors, flips=flips
        )

    return load


def open_or_explain(opener: Callable[[Path], Opened], options: DataOptions, how_to_get: str) -> Opened:
    """Open images below `options.root`; torchvision downloads missing images if it can.

    Args:
        opener: Opens the images below a folder.
        options: The dataset's name, its folder, and whether to compare checksums.
        how_to_get: The advice that the error gives.

    Raises:
        UserError: The images are missing and cannot be downloaded, or they are damaged or not the published ones.
    """
    root = Path(options.root).expanduser()
    try:
        if options.verify:
            return opener(root)
        with skip_checksums():
            return opener(root)
    except Exception as error:  # each reader of an archive format has its own errors for a damaged file
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"task.data.dataset={options.dataset} could not be opened in {root.absolute()}: the images are missing, "
            f"damaged or not the published ones ({reason}). {how_to_get}"
        ) from error


@contextmanager
def skip_checksums() -> Iterator[None]:
    """Accept any archive inside the block: replace the function with which torchvision compares checksums."""
    compare = utils.check_md5
    utils.check_md5 = lambda *_, **__: True
    try:
        yield
    finally:
        utils.check_md5 = compare


def make_image_data(
    train: Dataset,
    test: Dataset,
    options: DataOptions,
    *,
    num_classes: int,
    image_size: int,
    colors: Colors,
    flips: bool = True,
    val: Dataset | None = None,
) -> TaskData:
    """Return the three splits of a dataset of PIL images; only training images are augmented.

    Args:
        train: The training images.
        test: The test images.
        options: The `task.data` section.
        num_classes: The number of classes.
        image_size: S, the default of `task.data.image_size`.
        colors: The mean and std of each channel.
        flips: Whether to mirror training images at random.
        val: The validation images; None splits them off `train`.
    """
    size = options.image_size or image_size
    augmented, plain = make_transforms(size, image_size, flips)
    if val is not None:
        in_train, in_val = np.arange(count_images(train)), np.arange(count_images(val))
    else:
        in_train, in_val = carve_validation(read_labels(train), options.val_fraction, options.split_seed)
        val = train
    originals = {"train": Subset(train, in_train.tolist()), "val": Subset(val, in_val.tolist()), "test": test}
    return gather_labeled_images(
        train=TransformedImages(train, in_train, augmented),
        val=TransformedImages(val, in_val, plain),
        test=TransformedImages(test, range(count_images(test)), plain),
        num_classes=num_classes,
        channels=len(colors[0]),
        image_size=size,
        colors=options.choose_colors(colors),
        originals=Originals(originals, Path(options.root).expanduser()),
    )


def make_transforms(size: int, native_size: int, flips: bool) -> tuple[v2.Compose, v2.Compose]:
    """Return the transforms (augmented, plain) from PIL images to tensors of bytes (C, S, S)."""
    to_tensor: list[Any] = [v2.ToImage(), v2.ToPureTensor()]
    mirror = [v2.RandomHorizontalFlip()] if flips else []
    if native_size > LARGEST_FIXED_SIZE:
        augmented = [v2.RandomResizedCrop(size, antialias=True), *mirror, *to_tensor]
        plain = [v2.Resize(round(size * 256 / 224), antialias=True), v2.CenterCrop(size), *to_tensor]
    else:
        resize = [] if size == native_size else [v2.Resize((size, size), antialias=True)]
        augmented = [*resize, v2.RandomCrop(size, padding=size // 8), *mirror, *to_tensor]
        plain = [*resize, *to_tensor]
    return v2.Compose(augmented), v2.Compose(plain)
