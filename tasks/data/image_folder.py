"""The user's own images: one folder per class."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import default_loader

from core.runtime.errors import UserError
from tasks.data.splits import DataOptions, ImageData, carve_validation
from tasks.data.torchvision_sets import IMAGENET_COLORS, image_data, open_or_explain

LAYOUT = (
    "task.data.root=FOLDER must hold FOLDER/train/<class>/… and FOLDER/test/<class>/… (and FOLDER/val/<class>/… if "
    "there is one), or FOLDER/<class>/… alone, of which a part becomes the test images"
)
IMAGE_SIZE = 224


class Part(Dataset):
    """Some images of a folder."""

    def __init__(self, folder: ImageFolder, indices: np.ndarray):
        self.folder, self.indices, self.targets = folder, indices, np.asarray(folder.targets)[indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.folder[int(self.indices[index])]


def load(options: DataOptions) -> ImageData:
    """Return the splits of a folder; classes are the names of its folders, in alphabetical order.

    Raises:
        UserError: no such folders, other classes in one split than in another, or a class of too few images.
    """
    root = Path(options.root).expanduser()
    if not (root / "train").is_dir():
        if stray := [name for name in ("test", "val") if (root / name).is_dir()]:
            raise UserError(f"{root.absolute()} has a folder {stray[0]}/ but no train/; {LAYOUT}")
        whole = open_or_explain(open_folder, options, LAYOUT)
        check_sizes(whole, 3)
        rest, test = carve_validation(whole.targets, options.val_fraction, options.split_seed + 1)
        return image_data(
            Part(whole, rest),
            Part(whole, test),
            options,
            num_classes=len(whole.classes),
            image_size=IMAGE_SIZE,
            colors=IMAGENET_COLORS,
        )
    names = ("train", "test", "val") if (root / "val").is_dir() else ("train", "test")
    splits = {name: open_or_explain(partial(open_split, name=name), options, LAYOUT) for name in names}
    if "val" not in splits:
        check_sizes(splits["train"], 2)
    classes = splits["train"].classes
    for name, split in splits.items():
        if different := sorted(set(classes) ^ set(split.classes)):
            raise UserError(
                f"{root / name} and {root / 'train'} do not hold the same classes: {different[0]} is in one of them "
                "only; give both the same folders"
            )
    return image_data(
        splits["train"],
        splits["test"],
        options,
        val=splits.get("val"),
        num_classes=len(classes),
        image_size=IMAGE_SIZE,
        colors=IMAGENET_COLORS,
    )


def open_split(root: Path, name: str) -> ImageFolder:
    """Return the images of one split."""
    return open_folder(root / name)


def open_folder(folder: Path) -> ImageFolder:
    """Return the images of all class folders in `folder`."""
    return ImageFolder(folder, loader=open_image)


def open_image(path: str) -> Any:
    """Return an image in color.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return default_loader(path)
    except OSError as error:
        raise UserError(
            f"{path} is not an image that can be read ({error}); remove it, or put a whole one there"
        ) from error


def check_sizes(images: ImageFolder, num_splits: int) -> None:
    """Refuse a class that would leave a split without any of its images.

    Raises:
        UserError: the smallest class is too small.
    """
    counts = np.bincount(images.targets)
    if counts.min() < num_splits:
        raise UserError(
            f"class {images.classes[counts.argmin()]!r} has {counts.min()} images in {images.root}; "
            f"expected at least {num_splits}, one for each split that is carved out of them"
        )
