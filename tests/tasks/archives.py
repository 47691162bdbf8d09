"""Tiny datasets in their true on-disk formats, with images that a network can tell apart."""

import tarfile
from pathlib import Path
from pickle import dump  # CIFAR archives are pickles

import numpy as np


def class_images(num_classes: int, per_class: int, size: int, seed: int) -> tuple[np.ndarray, list[int]]:
    """Noisy color images (N, 3, S, S) uint8 around one random pattern per class, and their labels in random order."""
    patterns = np.random.default_rng(0).integers(40, 216, (num_classes, 3, size, size))
    random = np.random.default_rng(seed)
    labels = random.permutation(np.repeat(np.arange(num_classes), per_class))
    images = patterns[labels] + random.normal(0, 20, (len(labels), 3, size, size))
    return images.clip(0, 255).astype(np.uint8), labels.tolist()


def write_cifar100(root: Path, per_class: int = 8, test_per_class: int = 2) -> Path:
    """`root`/cifar-100-python.tar.gz as published: three pickles in a folder."""
    splits = {"train": class_images(100, per_class, 32, seed=1), "test": class_images(100, test_per_class, 32, seed=2)}
    content = {name: {"data": images.reshape(len(images), -1), "fine_labels": labels} for name, (images, labels) in splits.items()}
    content["meta"] = {"fine_label_names": [f"class {index}" for index in range(100)]}
    return _archive(root, "cifar-100-python", content)


def write_cifar10(root: Path, per_class: int = 8) -> Path:
    """`root`/cifar-10-python.tar.gz as published: five training batches, a test batch, the meta file."""
    images, labels = class_images(10, 5 * per_class, 32, seed=1)
    content = {}
    for batch, (part, part_labels) in enumerate(zip(np.split(images, 5), np.split(np.array(labels), 5)), start=1):
        content[f"data_batch_{batch}"] = {"data": part.reshape(len(part), -1), "labels": part_labels.tolist()}
    images, labels = class_images(10, per_class, 32, seed=2)
    content["test_batch"] = {"data": images.reshape(len(images), -1), "labels": labels}
    content["batches.meta"] = {"label_names": [f"class {index}" for index in range(10)]}
    return _archive(root, "cifar-10-batches-py", content, archive="cifar-10-python")


def _archive(root: Path, folder: str, content: dict, archive: str | None = None) -> Path:
    (root / folder).mkdir(parents=True)
    for name, entry in content.items():
        with (root / folder / name).open("wb") as file:
            dump(entry, file, protocol=2)
    path = root / f"{archive or folder}.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(root / folder, folder)
    for name in content:
        (root / folder / name).unlink()
    (root / folder).rmdir()
    return path
