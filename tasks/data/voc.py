"""Segmentation from the files of PASCAL VOC, whose form other datasets have as well.

ROOT/VOCdevkit/VOC2012/{JPEGImages/*.jpg, SegmentationClass/*.png, ImageSets/Segmentation/{train,val}.txt}

N images · H height · W width.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.datasets import VOCSegmentation
from torchvision.transforms import v2

from core.runtime.errors import UserError
from tasks.data.coco import BASE_SIZE, CROP_SIZE
from tasks.data.digests import Content
from tasks.data.scenes import (
    collate_segmentation,
    make_scene_data,
    make_segmentation_transforms,
    name_damaged_file,
)
from tasks.data.splits import DataOptions, TaskData
from tasks.data.torchvision_sets import IMAGENET_COLORS
from tasks.objectives.segmentation import VOID, Segmentation

NUM_CLASSES = 21  # with the background
IMAGE_SETS = {"train": "train", "test": "val"}  # VOC 2012 has published no masks of its test images
HOW_TO_GET = (
    "Set task.data.root=FOLDER to the folder that holds VOCdevkit/, which the archive VOCtrainval_11-May-2012.tar of "
    "host.robots.ox.ac.uk/pascal/VOC holds"
)
HOW_TO_CORRECT = "Replace the mask by an image of one class index per pixel, such as a palette PNG of VOC"


class VocScenes(VOCSegmentation):
    """Items (image, mask) with one class per pixel.

    Args:
        root: The folder that holds VOCdevkit/.
        year: The year of VOC, which names the folder of the images.
        image_set: The name of the list of images.
        num_classes: The number of classes, including the background.

    Raises:
        UserError: A folder or the list is missing, or the list is empty.
    """

    def __init__(self, root: Path, *, year: str, image_set: str, num_classes: int):
        list_of_images = root / f"VOCdevkit/VOC{year}/ImageSets/Segmentation/{image_set}.txt"
        folders = [list_of_images.parents[2] / name for name in ("JPEGImages", "SegmentationClass")]
        if missing := [part for part in (*folders, list_of_images) if not part.exists()]:
            raise UserError(f"{missing[0].absolute()} is missing. {HOW_TO_GET}")
        super().__init__(root, year, image_set)
        if not len(self):
            raise UserError(f"{list_of_images} names no images; it must name one a line. {HOW_TO_GET}")
        self.num_classes = num_classes

    def __getitem__(self, index: int) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
        image_path, mask_path = self.images[index], self.masks[index]
        with name_damaged_file(image_path):
            image = v2.functional.to_image(Image.open(image_path).convert("RGB"))
        mask = read_mask(mask_path, self.num_classes)
        if mask.shape != image.shape[-2:]:
            raise UserError(
                f"{mask_path} has {mask.shape[1]}×{mask.shape[0]} pixels, but {image_path} has "
                f"{image.shape[2]}×{image.shape[1]}. Replace the mask by one of the size of its image"
            )
        return image, tv_tensors.Mask(mask)

    def describe_content(self) -> Content:
        """Return the files of all images and masks (N, 2)."""
        pairs = np.array([self.images, self.masks], dtype=object).T
        return Content(pairs, None, np.zeros(len(pairs), dtype=np.int64))


def read_mask(path: str, num_classes: int) -> Tensor:
    """Return the class of each pixel as bytes (H, W).

    Raises:
        UserError: The file is missing, is not an image of class indices, or has an index that is no class.
    """
    with name_damaged_file(path), Image.open(path) as file:
        mode, mask = file.mode, np.array(file)
    if mode not in ("P", "L"):
        raise UserError(f"{path} has colors (mode {mode}) instead of class indices. {HOW_TO_CORRECT}")
    if (unknown := mask[(mask >= num_classes) & (mask != VOID)]).size:
        raise UserError(
            f"{path} has a pixel of class {unknown.max()}, but the classes are 0 to {num_classes - 1}, and {VOID} is "
            f"void. {HOW_TO_CORRECT}"
        )
    return torch.from_numpy(mask)


def load(options: DataOptions) -> TaskData:
    """Return the splits of VOC 2012 for segmentation: 21 classes, of which 0 is the background.

    Validation images are carved from the list train, and the list val is for testing. `task.data.image_size` is the
    side of training images, 480 by default; the shorter side of other images is 13/12 of it.

    Raises:
        UserError: A file is missing or invalid.
    """
    crop = options.image_size or CROP_SIZE
    return load_from(
        Path(options.root).expanduser(),
        IMAGE_SETS,
        options,
        year="2012",
        num_classes=NUM_CLASSES,
        base=round(crop * BASE_SIZE / CROP_SIZE),
        crop=crop,
        flips=True,
    )


def load_from(
    root: Path,
    image_sets: Mapping[str, str],
    options: DataOptions,
    *,
    year: str,
    num_classes: int,
    base: int,
    crop: int,
    flips: bool,
) -> TaskData:
    """Return the splits of a dataset for segmentation.

    Args:
        root: The folder that holds VOCdevkit/.
        image_sets: The name of the list of images of "train", "test" and perhaps "val".
        options: The `task.data` section.
        year: The year of VOC, which names the folder of the images.
        num_classes: The number of classes, including the background.
        base: The shorter side of validation and test images in pixels.
        crop: The side of training images in pixels.
        flips: Whether to mirror training images at random.
    """
    return make_scene_data(
        {
            split: VocScenes(root, year=year, image_set=name, num_classes=num_classes)
            for split, name in image_sets.items()
        },
        options,
        folder=root,
        transforms=make_segmentation_transforms(base=base, crop=crop, flips=flips),
        objective=Segmentation(num_classes),
        collate=collate_segmentation,
        num_classes=num_classes,
        image_size=crop,
        colors=IMAGENET_COLORS,
    )
