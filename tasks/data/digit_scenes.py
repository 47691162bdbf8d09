"""Detection and segmentation without a download: scenes of scikit-learn's digits in the formats of COCO and VOC.

The files are written once and read by the same code as those of the real datasets. COCO's are in train2017/, val2017/,
test2017/ and annotations/, and VOC's in VOCdevkit/VOC2007/, because only that year has a list of test images.

N images · S = 64 pixels.
"""

import json
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import maximum_filter
from sklearn.datasets import load_digits

from core.runtime.artifacts import sync_folder
from core.runtime.content_hash import hash_json
from core.runtime.errors import UserError
from core.runtime.seeding import derive_seed
from tasks.data import coco, digits, scene_drawing, voc
from tasks.data.scene_drawing import CANVAS, Scene, draw_scene, find_box
from tasks.data.splits import DataOptions, TaskData
from tasks.objectives.segmentation import VOID

log = logging.getLogger(__name__)
VERSION = 1  # of the scenes; any change of the drawing needs another number, and thereby another folder
# Every ten images have 20 digits, so the 300 digits of validation and 580 of the 597 of test appear once each. The
# images of these two splits therefore are independent of each other. The 900 digits of training appear once or twice.
NUM_IMAGES = {"train": 800, "val": 150, "test": 290}
DIGITS_PER_IMAGE = (1, 1, 1, 1, 2, 2, 2, 3, 3, 4)
COCO_FOLDERS = {"train": "train2017", "val": "val2017", "test": "test2017"}
VOC_YEAR, VOC_IMAGE_SETS = "2007", {"train": "train", "val": "val", "test": "test"}
NUM_CLASSES = 11  # ten digits after the background
JPEG: dict[str, Any] = {"quality": 95, "subsampling": 0}


def load_detection(options: DataOptions) -> TaskData:
    """Return 800 training, 150 validation and 290 test scenes with boxes; the label of a digit is the digit plus 1.

    Raises:
        UserError: The scenes cannot be written, or pycocotools is missing.
    """
    folder = prepare(Path(options.root).expanduser(), options.split_seed)
    return coco.load_detection_from(folder, COCO_FOLDERS, options, image_size=CANVAS, flips=False)


def load_segmentation(options: DataOptions) -> TaskData:
    """Return the same scenes with masks; the class of a digit is the digit plus 1, and its outline is void.

    Raises:
        UserError: The scenes cannot be written.
    """
    folder = prepare(Path(options.root).expanduser(), options.split_seed)
    size = options.image_size or CANVAS
    return voc.load_from(
        folder,
        VOC_IMAGE_SETS,
        options,
        year=VOC_YEAR,
        num_classes=NUM_CLASSES,
        base=size,
        crop=size,
        flips=False,
    )


def prepare(root: Path, split_seed: int) -> Path:
    """Return the folder of the scenes of a split seed below `root`; write them if it does not exist.

    Raises:
        UserError: The folder cannot be written.
    """
    settings = {"version": VERSION, "split_seed": split_seed, "images": NUM_IMAGES, "digits": DIGITS_PER_IMAGE}
    settings |= {name: value for name, value in vars(scene_drawing).items() if name.isupper()}
    folder = root / f"digit_scenes_{hash_json(settings)[:12]}"
    if folder.is_dir():
        return folder
    log.info("Writing %d scenes of digits into %s (once, about 10 seconds)", sum(NUM_IMAGES.values()), folder)
    temporary = root / f".{folder.name}.{os.getpid()}.tmp"
    try:
        write_scenes(temporary, split_seed)
        os.sync()  # the files reach the disk before the folder gets its name
        rename_unless_exists(temporary, folder)
        sync_folder(root)
    except OSError as error:
        raise UserError(
            f"cannot write {folder} ({error.strerror or error}). Free disk space, or set task.data.root=FOLDER to a "
            "folder that can be written to"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def rename_unless_exists(temporary: Path, folder: Path) -> None:
    """Rename a folder, unless another process has written the same one in the meantime."""
    try:
        temporary.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise


def write_scenes(folder: Path, split_seed: int) -> None:
    """Write the scenes of all splits in both formats."""
    images = load_digits()
    pools = split_digits(images.target, split_seed)
    first_id = 1
    for split, count in NUM_IMAGES.items():
        scenes = []
        for index, chosen in enumerate(deal_digits(pools[split], count, derive_seed(split_seed, f"scenes/{split}"))):
            random = np.random.default_rng(derive_seed(split_seed, f"scenes/{split}/image", index))
            scenes.append(draw_scene(images.images[chosen], images.target[chosen], random))
        write_coco(folder, COCO_FOLDERS[split], scenes, first_id)
        write_voc(folder / f"VOCdevkit/VOC{VOC_YEAR}", VOC_IMAGE_SETS[split], scenes, first_id)
        first_id += count


def split_digits(classes: np.ndarray, split_seed: int) -> dict[str, np.ndarray]:
    """Return the indices of the digits of each split, which are those of the dataset `digits`."""
    labels_N = torch.tensor(classes)
    train, first_val, held_out = digits.split_off_held_out(labels_N, split_seed)
    more_val, test = digits.divide_held_out(held_out, labels_N, split_seed)
    return {"train": train.numpy(), "val": torch.cat([first_val, more_val]).numpy(), "test": test.numpy()}


def deal_digits(pool: np.ndarray, count: int, seed: int) -> Iterator[np.ndarray]:
    """Yield the digits of each image; no digit appears again before all of them have appeared.

    Args:
        pool: The indices of the digits.
        count: N.
        seed: The seed of the order.
    """
    random = np.random.default_rng(seed)
    sizes = random.permutation(np.resize(DIGITS_PER_IMAGE, count))
    rounds = -(-int(sizes.sum()) // len(pool))
    order = np.concatenate([random.permutation(pool) for _ in range(rounds)])
    ends = np.cumsum(sizes)
    yield from (order[end - size : end] for end, size in zip(ends, sizes, strict=True))


def write_coco(root: Path, name: str, scenes: Sequence[Scene], first_id: int) -> None:
    """Write `root`/`name`/*.jpg and `root`/annotations/instances_`name`.json."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, scene in enumerate(scenes, start=first_id):
        file_name = f"{image_id:012}.jpg"
        save_image(root / name / file_name, Image.fromarray(scene.image_SS3), **JPEG)
        images.append({"id": image_id, "file_name": file_name, "width": CANVAS, "height": CANVAS})
        for number, (digit, pixels_SS) in enumerate(scene.list_objects()):
            top, left, bottom, right = find_box(pixels_SS).tolist()
            annotation = {"id": 10 * image_id + number, "image_id": image_id, "category_id": digit + 1, "iscrowd": 0}
            box = [left, top, right - left, bottom - top]
            annotations.append(annotation | {"bbox": box, "area": int(pixels_SS.sum())})
    categories = [{"id": digit + 1, "name": str(digit), "supercategory": "digit"} for digit in range(10)]
    path = root / "annotations" / f"instances_{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))


def write_voc(root: Path, image_set: str, scenes: Sequence[Scene], first_id: int) -> None:
    """Write JPEGImages/, SegmentationClass/ and ImageSets/Segmentation/`image_set`.txt below `root`."""
    names = [f"{image_id:06}" for image_id in range(first_id, first_id + len(scenes))]
    for name, scene in zip(names, scenes, strict=True):
        save_image(root / f"JPEGImages/{name}.jpg", Image.fromarray(scene.image_SS3), **JPEG)
        mask = Image.fromarray(draw_mask(scene))
        mask.putpalette(make_palette())
        save_image(root / f"SegmentationClass/{name}.png", mask)
    path = root / f"ImageSets/Segmentation/{image_set}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in names))


def draw_mask(scene: Scene) -> np.ndarray:
    """Return the class of each pixel (S, S); pixels next to a digit, or between two digits, are void."""
    mask_SS = np.zeros_like(scene.owner_SS)
    for digit, pixels_SS in scene.list_objects():
        mask_SS[pixels_SS] = digit + 1
    mask_SS[maximum_filter(scene.owner_SS, 3) != scene.owner_SS] = VOID
    return mask_SS


def make_palette() -> list[int]:
    """Return VOC's colors of the 256 classes, in which each bit of a class sets one bit of red, green or blue."""
    bits = (np.arange(256)[:, None] >> np.arange(8)) & 1  # (256, 8), from the lowest bit
    weights = 128 >> np.arange(3)  # each color takes every third bit, and the lowest bit weighs most
    padded = np.pad(bits, ((0, 0), (0, 1)))
    return np.stack([padded[:, color::3] @ weights for color in range(3)], axis=1).ravel().tolist()


def save_image(path: Path, image: Image.Image, **options: Any) -> None:
    """Write an image; the name decides the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
