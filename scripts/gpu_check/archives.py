"""Synthetic images in the published format of CIFAR-100, for machines that cannot download the dataset."""

import tarfile
from collections.abc import Mapping
from pathlib import Path
from pickle import dump  # CIFAR archives hold pickles
from typing import Any

import numpy as np

CHUNK = 5000  # images made at once, to bound the memory for noise


def make_class_images(
    num_classes: int, per_class: int, size: int, *, seed: int, wrong_labels: float = 0.0
) -> tuple[np.ndarray, list[int]]:
    """Return noisy color images (N, 3, S, S) uint8 around a random pattern per class, and labels in random order.

    Args:
        num_classes: The number of classes. The pattern of a class is the same for every seed.
        per_class: The number of images per class; N is `num_classes` times this number.
        size: S, in pixels.
        seed: The seed of the noise and of the order.
        wrong_labels: The share of labels that are drawn anew at random, so that no network can be right everywhere.
    """
    patterns = np.random.default_rng(0).integers(40, 216, (num_classes, 3, size, size)).astype(np.float32)
    random = np.random.default_rng(seed)
    labels = random.permutation(np.repeat(np.arange(num_classes), per_class))
    images = np.empty((len(labels), 3, size, size), np.uint8)
    for start in range(0, len(labels), CHUNK):
        rows = labels[start : start + CHUNK]
        noise = random.standard_normal((len(rows), 3, size, size), dtype=np.float32)
        images[start : start + CHUNK] = np.clip(20 * noise + patterns[rows], 0, 255)
    wrong = random.random(len(labels)) < wrong_labels
    labels[wrong] = random.integers(0, num_classes, wrong.sum())
    return images, labels.tolist()


def write_cifar100(root: Path, per_class: int = 8, test_per_class: int = 2, *, wrong_labels: float = 0.0) -> Path:
    """Write `root`/cifar-100-python.tar.gz in the published layout, three pickles in a folder; return its path."""
    sizes = {"train": (per_class, 1), "test": (test_per_class, 2)}
    splits = {
        name: make_class_images(100, count, 32, seed=seed, wrong_labels=wrong_labels)
        for name, (count, seed) in sizes.items()
    }
    content = {
        name: {"data": images.reshape(len(images), -1), "fine_labels": labels}
        for name, (images, labels) in splits.items()
    }
    content["meta"] = {"fine_label_names": [f"class {index}" for index in range(100)]}
    return write_pickle_archive(root, "cifar-100-python", content)


def write_pickle_archive(root: Path, folder: str, content: Mapping[str, Any], *, archive: str | None = None) -> Path:
    """Write `root`/<archive or folder>.tar.gz with one pickle per entry of `content` in `folder`; return its path."""
    (root / folder).mkdir(parents=True)
    for name, entry in content.items():
        with (root / folder / name).open("wb") as file:
            dump(entry, file, protocol=2)
    path = root / f"{archive or folder}.tar.gz"
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:  # noise does not compress
        tar.add(root / folder, folder)
    for name in content:
        (root / folder / name).unlink()
    (root / folder).rmdir()
    return path
