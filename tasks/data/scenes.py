"""What detection and segmentation share: the three splits, augmentations that boxes and masks follow, and batches.

An item of detection is (image (3, H, W), target). The target has boxes (n, 4) as corners x1, y1, x2, y2 in pixels,
labels (n,), area (n,), iscrowd (n,) and image_id. An item of segmentation is (image (3, H, W), mask (H, W)).
Images consist of bytes. An image may have no objects.

N images · B images in one batch · n objects · H height · W width.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset
from torchvision import tv_tensors
from torchvision.transforms import v2

from core.runtime.errors import UserError
from core.runtime.seeding import generator_for
from tasks.data.digests import Originals
from tasks.data.loaders import Collate, count_images
from tasks.data.splits import Colors, DataOptions, TaskData
from tasks.objectives.objective import Objective
from tasks.objectives.segmentation import VOID

Transforms = tuple[v2.Compose, v2.Compose]  # of training images (augmented), and of validation and test images


class TransformedScenes(Dataset):
    """Some items of `scenes`, each passed through `transform` together with its boxes or its mask."""

    def __init__(self, scenes: Dataset, indices: Sequence[int] | np.ndarray, transform: v2.Compose):
        self.scenes, self.indices, self.transform = scenes, indices, transform

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        return self.transform(*self.scenes[int(self.indices[index])])


@contextmanager
def name_damaged_file(*paths: str | Path) -> Iterator[None]:
    """Turn an error about an image that cannot be read into one that names its files.

    Raises:
        UserError: A file is missing or is not an intact image.
    """
    try:
        yield
    except (OSError, SyntaxError) as error:  # Pillow raises SyntaxError for a damaged PNG
        names = " or ".join(map(str, paths))
        raise UserError(
            f"{names} cannot be read as an image ({error}). Put an intact image of the dataset there"
        ) from error


class DropCrowds(nn.Module):
    """A transform that removes boxes around crowds, which no detector is trained on but which scoring must know."""

    def forward(self, image: Tensor, target: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        """Return the image and the target without the crowds."""
        single = target["iscrowd"] == 0
        kept = {name: value if name == "image_id" else value[single] for name, value in target.items()}
        # Indexing a tensor of torchvision gives a plain tensor, which no transform would move.
        kept["boxes"] = tv_tensors.wrap(kept["boxes"], like=target["boxes"])
        return image, kept


def make_detection_transforms(*, flips: bool) -> Transforms:
    """Return the transforms of torchvision's reference recipe, which mirrors training images at random.

    Args:
        flips: Whether to mirror; a mirrored digit is no longer that digit, so its colors are distorted instead.
    """
    augmentation = v2.RandomHorizontalFlip() if flips else v2.RandomPhotometricDistort()
    return v2.Compose([DropCrowds(), augmentation, v2.ToPureTensor()]), v2.Compose([v2.ToPureTensor()])


def make_segmentation_transforms(*, base: int, crop: int, flips: bool) -> Transforms:
    """Return the transforms of torchvision's reference recipe, which resizes, mirrors and crops at random.

    Args:
        base: The length of the shorter side of validation and test images in pixels; that of training images is drawn
            between its half and its double.
        crop: The side of the training images, which are padded if they are smaller.
        flips: Whether to mirror training images at random.
    """
    to_tensors = [v2.ToDtype({tv_tensors.Mask: torch.int64, "others": None}), v2.ToPureTensor()]
    augmentations = [
        v2.RandomResize(base // 2, 2 * base + 1, antialias=True),
        *([v2.RandomHorizontalFlip()] if flips else []),
        v2.RandomCrop(crop, pad_if_needed=True, fill={tv_tensors.Image: 0, tv_tensors.Mask: VOID}),
    ]
    return v2.Compose([*augmentations, *to_tensors]), v2.Compose([v2.Resize(base, antialias=True), *to_tensors])


def collate_detection(items: Sequence[tuple[Tensor, dict[str, Any]]]) -> tuple[list[Tensor], list[dict[str, Any]]]:
    """Return a list of images and a list of targets, because images differ in size and in the number of objects."""
    return [image for image, _ in items], [target for _, target in items]


def collate_segmentation(items: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return images (B, 3, H, W) and masks (B, H, W) of the largest height and the largest width in the batch.

    Smaller images are padded with zeros and their masks with `VOID`, at the right and at the bottom.
    """
    height, width = (max(image.shape[axis] for image, _ in items) for axis in (-2, -1))
    images, masks = [], []
    for image, mask in items:
        padding = (0, width - image.shape[-1], 0, height - image.shape[-2])
        images.append(F.pad(image, padding))
        masks.append(F.pad(mask, padding, value=VOID))
    return torch.stack(images), torch.stack(masks)


def carve(count: int, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the sorted indices (train, val) of a random division of `count` images.

    Images with several objects have no single class, so the division is not stratified.

    Args:
        count: N.
        fraction: The share of validation images; at least one of two images goes to each part.
        seed: The seed of the choice.
    """
    num_val = min(max(1, round(fraction * count)), count - 1)
    order = torch.randperm(count, generator=generator_for(seed, "scenes/val")).numpy()
    return np.sort(order[num_val:]), np.sort(order[:num_val])


def make_scene_data(
    scenes: Mapping[str, Dataset],
    options: DataOptions,
    *,
    folder: Path,
    transforms: Transforms,
    objective: Objective,
    collate: Collate,
    num_classes: int,
    image_size: int,
    colors: Colors,
    keep: np.ndarray | None = None,
) -> TaskData:
    """Return the three splits of a dataset of scenes.

    Args:
        scenes: The images of "train", "test" and perhaps "val", which are otherwise carved from "train".
        options: The `task.data` section.
        folder: The folder that holds all files.
        transforms: The transforms of training images, and of the others.
        objective: What networks learn on the images.
        collate: Makes a batch of items.
        num_classes: The number of classes, including the background.
        image_size: The facts' image size in pixels.
        colors: The mean and std of each channel.
        keep: Whether each image of "train" may be trained on (N,); None allows all of them.

    Raises:
        UserError: No image is left to train on or to validate on.
    """
    in_train: np.ndarray = np.arange(count_images(scenes["train"]))
    if "val" in scenes:
        in_val: np.ndarray = np.arange(count_images(scenes["val"]))
    else:
        in_train, in_val = carve(len(in_train), options.val_fraction, options.split_seed)
    if keep is not None:  # validation images resemble test images, so they are carved before this choice
        in_train = in_train[keep[in_train]]
    if not len(in_train) or not len(in_val):
        raise UserError(
            f"{folder} has too few images: {len(in_train)} to train on and {len(in_val)} to validate on, but at least "
            "one of each is needed. Add images with objects, or set task.data.root=FOLDER to another folder"
        )
    whole = {"train": scenes["train"], "val": scenes.get("val", scenes["train"]), "test": scenes["test"]}
    chosen = {"train": in_train, "val": in_val, "test": np.arange(count_images(scenes["test"]))}
    augmented, plain = transforms
    return TaskData(
        train=TransformedScenes(whole["train"], in_train, augmented),
        val=TransformedScenes(whole["val"], in_val, plain),
        test=TransformedScenes(whole["test"], chosen["test"], plain),
        objective=objective,
        collate=collate,
        facts={"num_classes": num_classes, "channels": 3, "image_size": image_size},
        colors=options.choose_colors(colors),
        originals=Originals({name: Subset(whole[name], chosen[name].tolist()) for name in whole}, folder),
    )
