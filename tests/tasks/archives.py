"""Tiny datasets in their published file formats, with a recognizable pattern in the images of each class."""

import gzip
import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

from scripts.gpu_check.archives import make_class_images, write_cifar100, write_pickle_archive

__all__ = ["make_class_images", "write_cifar100"]  # defined in scripts/gpu_check, which uses the same images


def write_cifar10(root: Path, per_class: int = 8) -> Path:
    """Write `root`/cifar-10-python.tar.gz with five training batches, a test batch and the meta file."""
    images, labels = make_class_images(10, 5 * per_class, 32, seed=1)
    content = {}
    parts = zip(np.split(images, 5), np.split(np.array(labels), 5), strict=True)
    for batch, (part, part_labels) in enumerate(parts, start=1):
        content[f"data_batch_{batch}"] = {"data": part.reshape(len(part), -1), "labels": part_labels.tolist()}
    images, labels = make_class_images(10, per_class, 32, seed=2)
    content["test_batch"] = {"data": images.reshape(len(images), -1), "labels": labels}
    content["batches.meta"] = {"label_names": [f"class {index}" for index in range(10)]}
    return write_pickle_archive(root, "cifar-10-batches-py", content, archive="cifar-10-python")


def write_mnist(root: Path) -> None:
    """Write `root`/MNIST/raw/*-ubyte.gz with magic number, sizes and bytes, all big-endian."""
    raw = root / "MNIST/raw"
    raw.mkdir(parents=True)
    for prefix, per_class, seed in (("train", 8, 1), ("t10k", 2, 2)):
        images, labels = make_class_images(10, per_class, 28, seed=seed)
        with gzip.open(raw / f"{prefix}-images-idx3-ubyte.gz", "wb") as file:
            file.write(np.array([2051, len(images), 28, 28], dtype=">i4").tobytes() + images[:, 0].tobytes())
        with gzip.open(raw / f"{prefix}-labels-idx1-ubyte.gz", "wb") as file:
            file.write(np.array([2049, len(labels)], dtype=">i4").tobytes() + bytes(labels))


def write_svhn(root: Path) -> None:
    """Write `root`/{train,test}_32x32.mat with X (32, 32, 3, N) and y, where 10 stands for the digit 0."""
    for name, per_class, seed in (("train", 8, 1), ("test", 2, 2)):
        images, labels = make_class_images(10, per_class, 32, seed=seed)
        savemat(
            root / f"{name}_32x32.mat",
            {"X": images.transpose(2, 3, 1, 0), "y": np.array([[label or 10] for label in labels], dtype=np.uint8)},
        )


def write_stl10(root: Path) -> None:
    """Write `root`/stl10_binary.tar.gz with images column by column and labels from 1."""
    files = {
        "class_names.txt": b"airplane\nbird\ncar\ncat\ndeer\ndog\nhorse\nmonkey\nship\ntruck\n",
        "fold_indices.txt": b"0 1 2\n",
        "unlabeled_X.bin": b"",
    }
    for name, per_class, seed in (("train", 8, 1), ("test", 2, 2)):
        images, labels = make_class_images(10, per_class, 96, seed=seed)
        files[f"{name}_X.bin"] = images.transpose(0, 1, 3, 2).tobytes()
        files[f"{name}_y.bin"] = bytes(label + 1 for label in labels)
    _tar(root / "stl10_binary.tar.gz", {f"stl10_binary/{name}": content for name, content in files.items()})


def write_flowers102(root: Path) -> None:
    """Write `root`/flowers-102/{102flowers.tgz,imagelabels.mat,setid.mat} with one image of each class in each split.

    Labels and ids start at 1.
    """
    folder = root / "flowers-102"
    folder.mkdir(parents=True)
    labels = np.tile(np.arange(1, 103), 3)
    splits = {split: np.arange(1, 103) + 102 * index for index, split in enumerate(("trnid", "valid", "tstid"))}
    _tar(folder / "102flowers.tgz", {f"jpg/image_{index:05}.jpg": _photo(index) for index in range(1, len(labels) + 1)})
    savemat(folder / "imagelabels.mat", {"labels": labels[None]})
    savemat(folder / "setid.mat", {split: ids[None] for split, ids in splits.items()})


def write_pets(root: Path) -> None:
    """Write `root`/oxford-iiit-pet/{images,annotations}.tar.gz, lines "name class species breed", classes from 1."""
    folder = root / "oxford-iiit-pet"
    folder.mkdir(parents=True)
    names = {
        split: [(f"Breed_{label}_{split}_{number}", label) for label in range(1, 38) for number in range(3)]
        for split in ("trainval", "test")
    }
    _tar(
        folder / "images.tar.gz",
        {f"images/{name}.jpg": _photo(index) for split in names.values() for index, (name, _) in enumerate(split)},
    )
    lists = {
        f"annotations/{split}.txt": "".join(f"{name} {label} 1 1\n" for name, label in entries).encode()
        for split, entries in names.items()
    }
    _tar(folder / "annotations.tar.gz", lists)


def write_food101(root: Path) -> None:
    """Write `root`/food-101.tar.gz with meta/{train,test}.json listing images/<class>/<id>.jpg of each class."""
    lists = {
        split: {
            f"dish_{label:03}": [f"dish_{label:03}/{first + number}" for number in range(2)] for label in range(101)
        }
        for split, first in (("train", 0), ("test", 100))
    }
    files = {
        f"food-101/images/{name}.jpg": _photo(index)
        for index, name in enumerate(name for split in lists.values() for names in split.values() for name in names)
    }
    files |= {f"food-101/meta/{split}.json": json.dumps(content).encode() for split, content in lists.items()}
    _tar(root / "food-101.tar.gz", files)


def write_imagenet(root: Path) -> None:
    """Write the archives of ILSVRC2012: devkit with meta.mat, a tar of tars for training, a flat tar for validation.

    Four classes are enough, because torchvision finds the classes in the folders. The devkit's table describes a tree
    of classes, of which torchvision reads the leaves.
    """
    root.mkdir(parents=True, exist_ok=True)
    wnids = [f"n{index:08}" for index in range(4)]
    fields = [
        "ILSVRC2012_ID",
        "WNID",
        "words",
        "gloss",
        "num_children",
        "children",
        "wordnet_height",
        "num_train_images",
    ]
    synsets = np.array(
        [(index + 1, wnid, f"thing {index}", "", 0, np.array([]), 0, 3) for index, wnid in enumerate(wnids)],
        dtype=[(name, object) for name in fields],
    )
    table = io.BytesIO()
    savemat(table, {"synsets": synsets[:, None]})
    truth = [1, 2, 3, 4, 4, 3, 2, 1]
    folder = "ILSVRC2012_devkit_t12/data"
    _tar(
        root / "ILSVRC2012_devkit_t12.tar.gz",
        {
            f"{folder}/meta.mat": table.getvalue(),
            f"{folder}/ILSVRC2012_validation_ground_truth.txt": "".join(f"{label}\n" for label in truth).encode(),
        },
    )
    classes = {}
    for wnid in wnids:
        inner = root / "inner.tar"
        _tar(inner, {f"{wnid}_{number}.JPEG": _photo(number) for number in range(3)}, mode="w")
        classes[f"{wnid}.tar"] = inner.read_bytes()
        inner.unlink()
    _tar(root / "ILSVRC2012_img_train.tar", classes, mode="w")
    _tar(
        root / "ILSVRC2012_img_val.tar",
        {f"ILSVRC2012_val_{number:08}.JPEG": _photo(number) for number in range(1, 9)},
        mode="w",
    )


def write_imagefolder(
    root: Path,
    splits: tuple[str, ...] = ("train", "test"),
    classes: tuple[str, ...] = ("cat", "dog", "owl"),
    per_class: int = 4,
) -> None:
    """Write `root`/<split>/<class>/<number>.jpg, or `root`/<class>/<number>.jpg if `splits` is empty."""
    for split in splits or ("",):
        for label, name in enumerate(classes):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(per_class):
                (folder / f"{number}.jpg").write_bytes(_photo(100 * label + number))


def _photo(seed: int, size: tuple[int, int] = (32, 24)) -> bytes:
    """Return a small JPEG of a width and a height."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def _tar(path: Path, files: dict[str, bytes], mode: str = "w:gz") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))


COCO_SIZE = 60, 40  # width and height
# Of each image, objects (category, box x, y, width, height, crowd). The categories are person, car, chair, toothbrush.
COCO_OBJECTS = [
    [(1, [4, 6, 30, 20], 0), (62, [20, 10, 35, 28], 0)],
    [],
    [(3, [0, 0, 59.5, 39.25], 0), (1, [40.5, 5, 15, 30], 1)],
    [(90, [2, 2, 50, 36], 0)],
]


def write_coco(root: Path, train_images: int = 8, test_images: int = 4) -> None:
    """Write `root`/{train2017,val2017}/*.jpg and `root`/annotations/instances_{train,val}2017.json.

    The images have the objects of `COCO_OBJECTS` in turn. An object is a polygon around its box, and a crowd has run
    lengths.
    """
    names = {1: "person", 3: "car", 62: "chair", 90: "toothbrush"}
    (root / "annotations").mkdir(parents=True)
    width, height = COCO_SIZE
    for name, count, first in (("train2017", train_images, 1), ("val2017", test_images, 101)):
        (root / name).mkdir()
        images, annotations = [], []
        for image_id in range(first, first + count):
            (root / name / f"{image_id:012}.jpg").write_bytes(_photo(image_id, COCO_SIZE))
            images.append({"id": image_id, "file_name": f"{image_id:012}.jpg", "width": width, "height": height})
            for number, (category, box, crowd) in enumerate(COCO_OBJECTS[(image_id - first) % len(COCO_OBJECTS)]):
                annotation = {"id": 10 * image_id + number, "image_id": image_id, "category_id": category, "bbox": box}
                outline = _run_lengths(box) if crowd else [_corners(box)]
                annotations.append({**annotation, "segmentation": outline, "area": box[2] * box[3], "iscrowd": crowd})
        content = {
            "info": {"year": 2017},
            "images": images,
            "annotations": annotations,
            "categories": [{"id": number, "name": text, "supercategory": "thing"} for number, text in names.items()],
        }
        (root / f"annotations/instances_{name}.json").write_text(json.dumps(content))


def write_voc(root: Path, train_images: int = 8, test_images: int = 4) -> None:
    """Write `root`/VOCdevkit/VOC2012 with {train,val}.txt, JPEGImages and masks as palette PNGs.

    Image number i shows a rectangle of class i % 21 with a void border. Its size depends on i.
    """
    folder = root / "VOCdevkit/VOC2012"
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True)
    for image_set, count, first in (("train", train_images, 1), ("val", test_images, 101)):
        numbers = range(first, first + count)
        names = [f"2007_{number:06}" for number in numbers]
        (folder / f"ImageSets/Segmentation/{image_set}.txt").write_text("".join(f"{name}\n" for name in names))
        for number, name in zip(numbers, names, strict=True):
            width, height = 40 + number % 3, 30 + number % 2
            (folder / f"JPEGImages/{name}.jpg").write_bytes(_photo(number, (width, height)))
            pixels = np.zeros((height, width), dtype=np.uint8)
            pixels[5:20, 10:30] = 255
            pixels[6:19, 11:29] = number % 21
            mask = Image.fromarray(pixels)
            mask.putpalette([index for index in range(256) for _ in range(3)])
            mask.save(folder / f"SegmentationClass/{name}.png")


def _corners(box: list[float]) -> list[float]:
    x, y, width, height = box
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def _run_lengths(box: list[float]) -> dict:
    """Return the runs of zeros and ones in turn, column by column, of the pixels of a box."""
    (width, height), (x, y, box_width, box_height) = COCO_SIZE, map(round, box)
    inside = np.zeros((height, width), dtype=np.uint8)
    inside[y : y + box_height, x : x + box_width] = 1
    flat = np.concatenate([[0], inside.ravel(order="F"), [2]])
    ends = np.flatnonzero(np.diff(flat))
    return {"size": [height, width], "counts": np.diff(ends, prepend=0).tolist()}
