"""Detection and segmentation from the files of COCO, whose form other datasets have as well.

ROOT/train2017/*.jpg, ROOT/val2017/*.jpg, ROOT/annotations/instances_{train,val}2017.json

N images · n objects · H height · W width.
"""

import hashlib
import io
import json
import logging
from collections.abc import Iterable, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.datasets import CocoDetection
from torchvision.transforms import v2

from core.runtime.errors import UserError
from tasks.data.coco_annotations import check_file, cut_box, find_unusable_boxes, find_unusable_outlines, refuse
from tasks.data.digests import Content
from tasks.data.scenes import (
    collate_detection,
    collate_segmentation,
    make_detection_transforms,
    make_scene_data,
    make_segmentation_transforms,
    name_damaged_file,
)
from tasks.data.splits import SPLITS, Colors, DataOptions, TaskData
from tasks.data.torchvision_sets import IMAGENET_COLORS
from tasks.objectives.detection import Detection
from tasks.objectives.segmentation import VOID, Segmentation

log = logging.getLogger(__name__)
FOLDERS = {"train": "train2017", "test": "val2017"}  # COCO publishes no labels of its test images
HOW_TO_INSTALL = "Reading COCO files needs the package pycocotools. Install it with: pip install pycocotools"
HOW_TO_GET = (
    "Set task.data.root=FOLDER to a folder with train2017/, val2017/ and annotations/, which the archives "
    "train2017.zip, val2017.zip and annotations_trainval2017.zip of cocodataset.org hold"
)
DETECTION_SIZE = 800  # pixels to which torchvision's detectors bring the shorter side
DETECTION_COLORS: Colors = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))  # torchvision's detectors normalize on their own
# The categories of COCO that VOC has too, in the order of VOC's classes, as in references/segmentation/coco_utils.py of
# torchvision. 0 stands for the background.
VOC_CATEGORIES = (0, 5, 2, 16, 9, 44, 6, 3, 17, 62, 21, 67, 18, 19, 4, 1, 64, 20, 63, 7, 72)
MIN_PIXELS = 1000  # training images of segmentation show objects of more than this area
BASE_SIZE, CROP_SIZE = 520, 480  # of torchvision's reference recipe for segmentation


class CocoScenes(CocoDetection):
    """Images with annotations in COCO's format, of which those that `is_used` names make the targets.

    Args:
        root: The folder that holds the folder of the images and annotations/.
        name: The name of the folder of the images.

    Raises:
        UserError: pycocotools or a file is missing, or the annotations are invalid.
    """

    fields: tuple[str, ...]  # of an annotation, from which the targets are made

    def __init__(self, root: Path, name: str):
        folder, path = root / name, root / "annotations" / f"instances_{name}.json"
        if missing := [part for part in (folder, path) if not part.exists()]:
            raise UserError(f"{missing[0].absolute()} is missing. {HOW_TO_GET}")
        if not path.stat().st_size:
            refuse(path, "the file is empty")
        log.info("Reading %s", path)
        try:
            with redirect_stdout(io.StringIO()):  # pycocotools prints what it is doing
                super().__init__(folder, str(path))
        except ImportError as error:
            raise UserError(HOW_TO_INSTALL) from error
        except (ValueError, KeyError, TypeError, AssertionError) as error:
            refuse(path, f"the file is not in the COCO format ({type(error).__name__}: {error})")
        check_file(path, self.coco.dataset)
        self.path = path
        self.unusable = self.find_unusable()

    def find_unusable(self) -> frozenset[int]:
        """Return the ids of annotations that are left out; raise `UserError` if they are more than a few."""
        raise NotImplementedError

    def is_used(self, annotation: Mapping[str, Any]) -> bool:
        """Return whether an annotation is part of a target."""
        return annotation["id"] not in self.unusable

    def list_annotations(self, index: int) -> list[dict[str, Any]]:
        """Return the annotations that make the target of an image."""
        return [annotation for annotation in self._load_target(self.ids[index]) if self.is_used(annotation)]

    def read_image(self, index: int) -> tv_tensors.Image:
        """Return an image in color (3, H, W).

        Raises:
            UserError: The file is missing, not an image, or of another size than the annotations say.
        """
        entry, path = self.coco.imgs[self.ids[index]], self.find_path(index)
        with name_damaged_file(path):
            image = v2.functional.to_image(self._load_image(self.ids[index]))
        height, width = image.shape[-2:]
        if (height, width) != (entry["height"], entry["width"]):
            raise UserError(
                f"{path} has {width}×{height} pixels, but {self.path} says {entry['width']}×{entry['height']}, so its "
                "annotations do not fit. Replace the image, or correct the annotations"
            )
        return image

    def has_objects(self, indices: Iterable[int]) -> bool:
        """Return whether any of these images shows an object that scores count."""
        return any(self.is_scored(annotation) for index in indices for annotation in self.list_annotations(index))

    def is_scored(self, annotation: Mapping[str, Any]) -> bool:
        """Return whether scores count an annotation that is used."""
        return True

    def find_path(self, index: int) -> str:
        """Return the path of an image."""
        return str(Path(self.root) / self.coco.imgs[self.ids[index]]["file_name"])

    def describe_content(self) -> Content:
        """Return the files of all images, and a hash of the annotations of each."""
        paths = [self.find_path(index) for index in range(len(self.ids))]
        hashes = [self.hash_annotations(index) for index in range(len(self.ids))]
        return Content(np.array(paths, dtype=object), None, np.array(hashes, dtype=np.int64))

    def hash_annotations(self, index: int) -> int:
        """Return a hash of all that the target of an image is made of."""
        used = [[annotation.get(field) for field in self.fields] for annotation in self.list_annotations(index)]
        digest = hashlib.sha256(json.dumps([self.ids[index], used], sort_keys=True).encode()).digest()
        return int.from_bytes(digest[:8], "little", signed=True)


class DetectionScenes(CocoScenes):
    """Items (image, target) with boxes; the labels are the ids of the categories."""

    fields = ("bbox", "category_id", "area", "iscrowd")

    def find_unusable(self) -> frozenset[int]:
        """Return the ids of annotations without a usable box."""
        return find_unusable_boxes(self.path, self.coco.dataset)

    def is_scored(self, annotation: Mapping[str, Any]) -> bool:
        """Return whether an annotation is no crowd, whose boxes count neither as right nor as false."""
        return not annotation.get("iscrowd", 0)

    def __getitem__(self, index: int) -> tuple[tv_tensors.Image, dict[str, Any]]:
        image, annotations = self.read_image(index), self.list_annotations(index)
        entry = self.coco.imgs[self.ids[index]]
        corners = [cut_box(annotation["bbox"], entry) for annotation in annotations]
        boxes = torch.tensor(corners, dtype=torch.float32).reshape(-1, 4)  # four columns also without objects
        return image, {
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=image.shape[-2:]),
            "labels": torch.tensor([annotation["category_id"] for annotation in annotations], dtype=torch.int64),
            "area": torch.tensor([annotation["area"] for annotation in annotations], dtype=torch.float32),
            "iscrowd": torch.tensor([annotation.get("iscrowd", 0) for annotation in annotations], dtype=torch.uint8),
            "image_id": self.ids[index],
        }


class SegmentationScenes(CocoScenes):
    """Items (image, mask) with the classes of VOC; pixels of several objects are void."""

    fields = ("segmentation", "category_id", "area")

    def find_unusable(self) -> frozenset[int]:
        """Return the ids of annotations without a usable outline."""
        return find_unusable_outlines(self.path, self.coco.dataset, VOC_CATEGORIES)

    def is_used(self, annotation: Mapping[str, Any]) -> bool:
        """Return whether an annotation is of a class of VOC."""
        return annotation["category_id"] in VOC_CATEGORIES and super().is_used(annotation)

    def __getitem__(self, index: int) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
        image = self.read_image(index)
        return image, tv_tensors.Mask(self.draw_mask(index, image.shape[-2:]))

    def draw_mask(self, index: int, size: Iterable[int]) -> Tensor:
        """Return the class of each pixel as bytes (H, W)."""
        mask, count = (torch.zeros(*size, dtype=dtype) for dtype in (torch.uint8, torch.int32))
        for annotation in self.list_annotations(index):
            inside = torch.from_numpy(self.coco.annToMask(annotation)).bool()
            mask[inside] = VOC_CATEGORIES.index(annotation["category_id"])
            count += inside
        mask[count > 1] = VOID
        return mask

    def find_large(self) -> np.ndarray:
        """Return whether each image shows objects of more than `MIN_PIXELS` pixels (N,)."""
        areas = [sum(annotation["area"] for annotation in self.list_annotations(i)) for i in range(len(self.ids))]
        return np.array(areas) > MIN_PIXELS


Scenes = TypeVar("Scenes", bound=CocoScenes)


def open_splits(kind: type[Scenes], root: Path, folders: Mapping[str, str]) -> dict[str, Scenes]:
    """Return the images of each split.

    Args:
        kind: The class of the images.
        root: The folder that holds all files.
        folders: The folder of each split below `root`.

    Raises:
        UserError: A file is missing or invalid, or the splits have different categories.
    """
    scenes = {split: kind(root, folder) for split, folder in folders.items()}
    expected = scenes["train"].coco.cats.keys()
    for split in scenes.values():
        if different := sorted(expected ^ split.coco.cats.keys()):
            refuse(split.path, f"category {different[0]} is not in both this file and {scenes['train'].path}")
    return scenes


def require_objects(data: TaskData, folder: Path) -> TaskData:
    """Return the data after checking that each split shows objects, without which no score is defined.

    Single images may be without objects: every box that is found on one is false, in training and in scoring.

    Raises:
        UserError: A split shows no object.
    """
    for name in SPLITS:
        images: Any = getattr(data, name)
        if not images.scenes.has_objects(map(int, images.indices)):
            raise UserError(
                f"{folder}: none of the {len(images)} images of the split {name} shows an object of the dataset's "
                "classes, so nothing can be scored on them. Add images with objects, set task.data.split_seed to "
                "another number, or set task.data.root=FOLDER to another folder"
            )
    return data


def load_detection(options: DataOptions) -> TaskData:
    """Return the splits of COCO 2017 for detection: 91 classes, of which 0 is the background.

    Training images are without crowds. Validation images are carved from train2017, and val2017 is for testing.

    Raises:
        UserError: pycocotools or a file is missing, or the annotations are invalid.
    """
    return load_detection_from(Path(options.root).expanduser(), FOLDERS, options, image_size=DETECTION_SIZE, flips=True)


def load_detection_from(
    root: Path, folders: Mapping[str, str], options: DataOptions, *, image_size: int, flips: bool
) -> TaskData:
    """Return the splits of a dataset for detection.

    Images keep their size. `image_size` is only the default of the facts' image size, which a detector brings the
    shorter side to. The number of classes is one more than the largest id of a category.

    Args:
        root: The folder that holds all files.
        folders: The folder of "train", "test" and perhaps "val" below `root`.
        options: The `task.data` section.
        image_size: The default of `task.data.image_size`.
        flips: Whether to mirror training images at random.
    """
    scenes = open_splits(DetectionScenes, root, folders)
    num_classes = max(scenes["train"].coco.cats) + 1
    data = make_scene_data(
        scenes,
        options,
        folder=root,
        transforms=make_detection_transforms(flips=flips),
        objective=Detection(num_classes),
        collate=collate_detection,
        num_classes=num_classes,
        image_size=options.image_size or image_size,
        colors=DETECTION_COLORS,
    )
    return require_objects(data, root)


def load_segmentation(options: DataOptions) -> TaskData:
    """Return the splits of COCO 2017 for segmentation with VOC's 21 classes, of which 0 is the background.

    `task.data.image_size` is the side of training images, 480 by default; the shorter side of other images is 13/12 of
    it.

    Raises:
        UserError: pycocotools or a file is missing, or the annotations are invalid.
    """
    root, crop = Path(options.root).expanduser(), options.image_size or CROP_SIZE
    scenes = open_splits(SegmentationScenes, root, FOLDERS)
    data = make_scene_data(
        scenes,
        options,
        folder=root,
        transforms=make_segmentation_transforms(base=round(crop * BASE_SIZE / CROP_SIZE), crop=crop, flips=True),
        objective=Segmentation(len(VOC_CATEGORIES)),
        collate=collate_segmentation,
        num_classes=len(VOC_CATEGORIES),
        image_size=crop,
        colors=IMAGENET_COLORS,
        keep=scenes["train"].find_large(),
    )
    return require_objects(data, root)
