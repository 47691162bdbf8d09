"""The user's own images, stored in one folder per class."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Subset
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import default_loader

from core.runtime.errors import UserError
from tasks.data.splits import DataOptions, TaskData, carve_validation
from tasks.data.torchvision_sets import IMAGENET_COLORS, make_image_data, open_or_explain

HOW_TO_ARRANGE = (
    "Set task.data.root=FOLDER to a folder with FOLDER/train/<class>/ and FOLDER/test/<class>/ (FOLDER/val/<class>/ is "
    "optional), or with FOLDER/<class>/ alone, from which test images are then split off"
)
IMAGE_SIZE = 224


class FolderPart(Subset):
    """Some images of a folder."""

    def __init__(self, folder: ImageFolder, indices: np.ndarray):
        super().__init__(folder, indices.tolist())
        self.targets = np.asarray(folder.targets)[indices]


def load(options: DataOptions) -> TaskData:
    """Return the splits of a folder; its classes are the names of the class folders, in alphabetical order.

    Raises:
        UserError: The folders are not arranged as expected, the splits have different classes, or a class has too few
            images.
    """
    root = Path(options.root).expanduser()
    return load_splits(root, options) if (root / "train").is_dir() else load_unsplit(root, options)


def load_splits(root: Path, options: DataOptions) -> TaskData:
    """Return the splits of a folder with train/, test/ and perhaps val/."""
    names = ("train", "test", "val") if (root / "val").is_dir() else ("train", "test")
    splits = {name: open_or_explain(partial(open_split, name=name), options, HOW_TO_ARRANGE) for name in names}
    if "val" not in splits:
        check_sizes(splits["train"], 2)
    classes = set(splits["train"].classes)
    for name, split in splits.items():
        if different := sorted(classes ^ set(split.classes)):
            holder, other = ("train", name) if different[0] in classes else (name, "train")
            raise UserError(
                f"the class folder {different[0]} is in {root / holder} but not in {root / other}. "
                f"Add images of {different[0]} to {root / other}, or remove {root / holder / different[0]}"
            )
    return make_image_data(
        splits["train"],
        splits["test"],
        options,
        val=splits.get("val"),
        num_classes=len(classes),
        image_size=IMAGE_SIZE,
        colors=IMAGENET_COLORS,
    )


def load_unsplit(root: Path, options: DataOptions) -> TaskData:
    """Return splits of a folder that holds class folders only; `task.data.val_fraction` of it becomes test images."""
    if stray := [name for name in ("test", "val") if (root / name).is_dir()]:
        raise UserError(f"{root.absolute()} has a folder {stray[0]}/ but no folder train/. {HOW_TO_ARRANGE}")
    whole = open_or_explain(open_folder, options, HOW_TO_ARRANGE)
    check_sizes(whole, 3)
    rest, test = carve_validation(whole.targets, options.val_fraction, options.split_seed + 1)
    return make_image_data(
        FolderPart(whole, rest),
        FolderPart(whole, test),
        options,
        num_classes=len(whole.classes),
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
        UserError: The file cannot be read as an image.
    """
    try:
        return default_loader(path)
    except OSError as error:
        raise UserError(
            f"{path} cannot be read as an image ({error}). Remove this file, or replace it with an intact image"
        ) from error


def check_sizes(images: ImageFolder, num_splits: int) -> None:
    """Check that every class has an image for each split.

    Args:
        images: The images to be split.
        num_splits: The number of splits that are made from these images.

    Raises:
        UserError: The smallest class has fewer images than there are splits.
    """
    counts = np.bincount(images.targets)
    if counts.min() < num_splits:
        name = images.classes[counts.argmin()]
        raise UserError(
            f"class {name!r} has {counts.min()} images in {images.root} but needs at least {num_splits}, because "
            f"{num_splits} splits are made from them. Add images to {Path(images.root) / name}, or remove that folder"
        )
