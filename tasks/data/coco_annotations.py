"""The checks of an annotation file in COCO's format, which are made once, when it is opened, and open no image."""

import json
import logging
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from core.runtime.errors import UserError

log = logging.getLogger(__name__)
Entry = Mapping[str, Any]  # one image, annotation or category of the file
# COCO's own train2017 has 2 boxes of height 0 among 860,001 (github.com/cocodataset/cocoapi/issues/355), so this share
# of unusable annotations is left out, as torchvision's reference does. A larger share is a mistake in the file.
TOLERATED_SHARE = 1e-4
MARGIN = 1.0  # pixels by which a box may leave its image, because coordinates are rounded; it is cut off then
REQUIRED = {
    "images": ("id", "file_name", "width", "height"),
    "annotations": ("id", "image_id", "category_id", "bbox", "area"),
    "categories": ("id", "name"),
}


def check_file(path: Path, content: Any) -> None:
    """Check the lists of an annotation file, and that each annotation belongs to an image and to a category.

    Args:
        path: The file.
        content: The content of the file.

    Raises:
        UserError: A list or an entry is missing, an id is used twice, or an annotation is of an unknown image or
            category.
    """
    for name, fields in REQUIRED.items():
        entries = content.get(name)
        if not isinstance(entries, list) or not entries:
            refuse(path, f"the file holds no {name}, because this list of the COCO format is missing or empty")
        check_entries(path, name, entries, fields)
    for image in content["images"]:
        if not all(type(image[side]) is int and image[side] > 0 for side in ("width", "height")):
            refuse(path, f"image {image['id']} has the size {image['width']}×{image['height']}; it must be positive")
    for category in content["categories"]:
        if category["id"] < 1:
            refuse(
                path, f"category {category['name']!r} has the id {category['id']}; ids start at 1, as 0 is background"
            )
    images, categories = ({entry["id"] for entry in content[name]} for name in ("images", "categories"))
    for annotation in content["annotations"]:
        if annotation["image_id"] not in images:
            refuse(path, f"annotation {annotation['id']} is of unknown image {annotation['image_id']}")
        if annotation["category_id"] not in categories:
            known = ", ".join(map(str, sorted(categories)[:20]))
            refuse(
                path,
                f"annotation {annotation['id']} is of unknown category {annotation['category_id']}; "
                f"the ids of its categories are {known}",
            )


def check_entries(path: Path, name: str, entries: Sequence[Any], fields: Sequence[str]) -> None:
    """Check that all entries of a list have the required fields and different ids.

    Raises:
        UserError: A field is missing, or an id is not a whole number or is used twice.
    """
    seen = set()
    for entry in entries:
        if missing := [field for field in fields if not isinstance(entry, dict) or field not in entry]:
            refuse(path, f"an entry of {name} has no {missing[0]}: {shorten(entry)}")
        if type(entry["id"]) is not int:
            refuse(path, f"an entry of {name} has the id {shorten(entry['id'])}; it must be a whole number")
        if entry["id"] in seen:
            refuse(path, f"two entries of {name} have the id {entry['id']}")
        seen.add(entry["id"])


def find_unusable_boxes(path: Path, content: Mapping[str, Sequence[Entry]]) -> frozenset[int]:
    """Return the ids of the few annotations whose box is of zero size or outside the image.

    Raises:
        UserError: A box is not made of four numbers, an area or a mark of a crowd is invalid, or more than
            `TOLERATED_SHARE` of the boxes are unusable.
    """
    images = {image["id"]: image for image in content["images"]}
    unusable: dict[int, str] = {}
    for annotation in content["annotations"]:
        number, box, area = annotation["id"], annotation["bbox"], annotation["area"]
        if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
            refuse(path, f"annotation {number} has the box {shorten(box)}; it must be four numbers x, y, width, height")
        if not is_number(area) or area < 0 or annotation.get("iscrowd", 0) not in (0, 1):
            refuse(
                path,
                f"annotation {number} has area={shorten(area)} and iscrowd={shorten(annotation.get('iscrowd', 0))}; "
                "the area must be a number of pixels, and iscrowd 0 or 1",
            )
        if problem := find_problem_of_box(box, images[annotation["image_id"]]):
            unusable[number] = f"annotation {number} has the box {box}, which {problem}"
    return tolerate(path, unusable, len(content["annotations"]))


def find_problem_of_box(box: Sequence[float], image: Entry) -> str:
    """Return what is wrong with a box (x, y, width, height), as the end of a sentence, or an empty text."""
    x1, y1, x2, y2 = cut_box(box, image)
    x, y, width, height = box
    if width <= 0 or height <= 0:
        return "is of zero size; width and height must be positive"
    leaves = max(-x, -y, x + width - image["width"], y + height - image["height"]) > MARGIN
    if leaves or x2 <= x1 or y2 <= y1:
        return f"is outside image {image['id']} of {image['width']}×{image['height']} pixels"
    return ""


def cut_box(box: Sequence[float], image: Entry) -> tuple[float, float, float, float]:
    """Return the corners x1, y1, x2, y2 of the part of a box (x, y, width, height) that is inside its image."""
    x, y, width, height = box
    right, bottom = image["width"], image["height"]
    return max(x, 0), max(y, 0), min(x + width, right), min(y + height, bottom)


def find_unusable_outlines(path: Path, content: Mapping[str, Any], categories: Collection[int]) -> frozenset[int]:
    """Return the ids of the few annotations of some categories whose polygons or run lengths are invalid.

    Raises:
        UserError: They are more than `TOLERATED_SHARE` of all annotations.
    """
    images = {image["id"]: image for image in content["images"]}
    unusable: dict[int, str] = {}
    for annotation in content["annotations"]:
        image, outline = images[annotation["image_id"]], annotation.get("segmentation")
        if annotation["category_id"] in categories and not is_outline(outline, [image["height"], image["width"]]):
            unusable[annotation["id"]] = (
                f"annotation {annotation['id']} has the segmentation {shorten(outline)}; it must be a list of polygons "
                "of at least three points, or run lengths with the size of the image"
            )
    return tolerate(path, unusable, len(content["annotations"]))


def is_outline(outline: Any, size: Sequence[int]) -> bool:
    """Return whether a segmentation is a list of polygons, or run lengths of an image of `size` (height, width)."""
    if isinstance(outline, dict):
        return outline.get("size") == list(size) and isinstance(outline.get("counts"), (list, str))
    if not isinstance(outline, list) or not outline:
        return False
    return all(
        isinstance(polygon, list) and len(polygon) >= 6 and len(polygon) % 2 == 0 and all(map(is_number, polygon))
        for polygon in outline
    )


def tolerate(path: Path, unusable: Mapping[int, str], total: int) -> frozenset[int]:
    """Return the ids of unusable annotations, which are left out, and log their number.

    Args:
        path: The file.
        unusable: What is wrong with an annotation, by its id.
        total: The number of all annotations.

    Raises:
        UserError: They are more than `TOLERATED_SHARE` of all annotations.
    """
    if unusable:
        first = next(iter(unusable.values()))
        if len(unusable) > TOLERATED_SHARE * total:
            refuse(path, f"{first} ({len(unusable)} of {total} annotations are unusable)")
        log.warning("%s: leaving out %d of %d annotations (%s)", path, len(unusable), total, first)
    return frozenset(unusable)


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number."""
    return type(value) in (int, float) and math.isfinite(value)


def shorten(value: Any, length: int = 80) -> str:
    """Return the beginning of a value as it is in the file."""
    text = json.dumps(value)
    return text if len(text) <= length else f"{text[:length]}…"


def refuse(path: Path, problem: str) -> NoReturn:
    """Refuse an annotation file.

    Raises:
        UserError: Always; the message names the file and the problem.
    """
    raise UserError(f"{path}: {problem}. Correct this file, or set task.data.root=FOLDER to another folder")
