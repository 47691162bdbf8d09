"""Digests of all images of a split, by which a command notices that an image or its label, boxes or mask was edited.

N images · F files of one image.
"""

import hashlib
import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from core.runtime.artifacts import read_json, replace_atomically
from core.runtime.content_hash import hash_tensor
from core.runtime.errors import UserError
from tasks.data.loaders import count_images

log = logging.getLogger(__name__)
MEMORY = ".image_digests.json"  # {path relative to the folder of this file: [size, mtime_ns, digest]}
NUM_THREADS = 8
FILES_AT_ONCE = 256  # files that one thread takes at once
# A file that was written less than this time ago is not remembered, because another edit could leave its size and its
# time of modification as they are.
MIN_AGE = 2_000_000_000  # nanoseconds


@dataclass(frozen=True)
class Originals:
    """The images of each split as they lie on disk or in memory, before they are resized, cropped or distorted.

    Settings and source code decide everything that happens to the images afterwards.

    Args:
        splits: Datasets of torchvision or tensors, or parts of them.
        folder: The folder that holds the files of images, in which their digests are remembered; None for images in
            memory.
    """

    splits: Mapping[str, Dataset]
    folder: Path | None = None


@dataclass(frozen=True)
class Content:
    """The images and labels of a split: paths of files, or an array of images in memory."""

    paths_N: np.ndarray | None  # of str, (N,), or (N, F) if an image has several files, such as a mask
    images_N: np.ndarray | None  # (N, …)
    labels_N: np.ndarray  # of int64; hashes of labels that are not numbers, or the numbers of the user's own tensors

    def take(self, indices: np.ndarray) -> "Content":
        """Return some of the images, in the order of `indices`."""
        paths_N, images_N = (None if part is None else part[indices] for part in (self.paths_N, self.images_N))
        return Content(paths_N, images_N, self.labels_N[indices])


@runtime_checkable
class DescribesContent(Protocol):
    """A dataset whose labels are no numbers, such as boxes or masks, and which knows how to describe them."""

    def describe_content(self) -> Content:
        """Return the files of all images, and hashes of the labels that are in no file of a single image."""


def digest_originals(originals: Originals) -> dict[str, str]:
    """Return a digest of each split, which covers the content, the label and the order of its images.

    Each file is read once. Its digest is remembered in the folder of the images until its size or its time of
    modification changes.

    Raises:
        UserError: A file cannot be read.
    """
    contents = {name: find_content(split) for name, split in originals.splits.items()}
    paths = {path for content in contents.values() if content.paths_N is not None for path in content.paths_N.flat}
    digests = digest_image_files(sorted(paths), originals.folder) if paths else {}
    return {name: digest_content(content, digests) for name, content in contents.items()}


def digest_items(splits: Mapping[str, Dataset]) -> dict[str, str]:
    """Return a digest of each of the user's own splits.

    Validation and test images are read one by one. Augmented training images differ at every visit, so only their
    number counts, unless they are tensors in memory.
    """
    digests = {}
    for name, split in splits.items():
        augmented = name == "train" and not holds_tensors(split)
        digests[name] = f"{count_images(split)} images" if augmented else digest_fixed_images(split)
    return digests


def digest_fixed_images(images: Dataset) -> str:
    """Return the digest of a dataset whose items are the same at every visit."""
    return digest_content(find_content(images), {}) if holds_tensors(images) else digest_one_by_one(images)


def digest_content(content: Content, digests: Mapping[str, str]) -> str:
    """Return the digest of a split, given the digest of each file by path."""
    digest = hashlib.sha256(content.labels_N.tobytes())
    if content.paths_N is not None:
        digest.update("".join(digests[path] for path in content.paths_N.flat).encode())
    if content.images_N is not None:
        digest.update(str(content.images_N.shape).encode())
        digest.update(np.ascontiguousarray(content.images_N).data)
    return digest.hexdigest()[:16]


def digest_one_by_one(split: Dataset) -> str:
    """Return the digest of a split whose items are the same at every visit."""
    digest = hashlib.sha256()
    with isolate_rng(include_cuda=False):  # the user's own dataset may draw random numbers
        for index in range(count_images(split)):
            value, target = split[index]
            digest.update(f"{tuple(value.shape)} {describe_label(target)}".encode())
            digest.update(view_bytes(value).data)
    return digest.hexdigest()[:16]


def describe_label(label: Any) -> str:
    """Return a number as text, or the hashes of all that a mask, or a dictionary of boxes and labels, holds."""
    if isinstance(label, Mapping):
        return " ".join(f"{name} {describe_label(label[name])}" for name in sorted(label))
    if isinstance(label, Tensor) and (label.dim() or label.is_floating_point()):
        return hash_tensor(label)
    return str(int(label))


def holds_tensors(images: Dataset) -> bool:
    """Return whether the images are tensors in memory that no augmentation changes."""
    return holds_tensors(images.dataset) if type(images) is Subset else type(images) is TensorDataset


def find_content(images: Dataset) -> Content:
    """Return the images and labels of a dataset of torchvision, of a `TensorDataset`, or of parts of them."""
    if isinstance(images, Subset):
        return find_content(images.dataset).take(np.asarray(images.indices, dtype=np.int64))
    if isinstance(images, DescribesContent):
        return images.describe_content()
    if isinstance(images, ConcatDataset):
        parts = [find_content(part) for part in images.datasets]
        paths_N, labels_N = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("paths_N", "labels_N")
        )
        return Content(paths_N, None, labels_N)
    if isinstance(images, TensorDataset):
        tensors = images.tensors
        targets = tensors[1].cpu() if tensors[1].is_floating_point() else tensors[1].long().cpu()
        return Content(None, view_bytes(tensors[0]), targets.numpy())
    labels_N = read_labels(images).astype(np.int64)
    if (paths := list_files(images)) is not None:
        return Content(np.array([str(path) for path in paths], dtype=object), None, labels_N)
    return Content(None, np.asarray(images.data), labels_N)  # type: ignore[attr-defined]


def list_files(images: Dataset) -> list[Any] | None:
    """Return the path of every image of a dataset of torchvision, or None if the images are in memory."""
    if samples := getattr(images, "samples", None):  # pairs (path, label)
        return [path for path, _ in samples]
    # torchvision's datasets do not agree on the attribute's name.
    return next((getattr(images, name) for name in ("_image_files", "_images") if hasattr(images, name)), None)


def read_labels(images: Dataset) -> np.ndarray:
    """Return the label of every image (N,), without opening an image."""
    if isinstance(images, ConcatDataset):
        return np.concatenate([read_labels(part) for part in images.datasets])
    # torchvision's datasets do not agree on the attribute's name.
    (labels,) = (getattr(images, name) for name in ("targets", "labels", "_labels") if hasattr(images, name))
    return np.asarray(labels)


def view_bytes(tensor: Tensor) -> np.ndarray:
    """Return a tensor as an array of bytes."""
    tensor = tensor.detach().cpu().contiguous()
    return (tensor if tensor.dim() else tensor[None]).view(torch.uint8).numpy()


def digest_image_files(paths: Sequence[str], folder: Path | None) -> dict[str, str]:
    """Return the digest of each file by path; files that have not changed since the last call are not read.

    Args:
        paths: The files.
        folder: The folder in which the digests are remembered; None remembers nothing.

    Raises:
        UserError: A file cannot be read.
    """
    memory = folder / MEMORY if folder else None
    remembered = read_memory(memory) if memory else {}
    names = {path: path.removeprefix(f"{folder}{os.sep}") for path in paths}
    now = time.time_ns()
    try:
        with ThreadPoolExecutor(NUM_THREADS) as pool:
            chunks = [paths[start : start + FILES_AT_ONCE] for start in range(0, len(paths), FILES_AT_ONCE)]
            states = dict(
                zip(paths, (state for chunk in pool.map(read_states, chunks) for state in chunk), strict=True)
            )
            digests = {
                path: entry[2]
                for path, state in states.items()
                if (entry := remembered.get(names[path])) and tuple(entry[:2]) == state
            }
            changed = [path for path in paths if path not in digests]
            if len(changed) > FILES_AT_ONCE:
                log.info("Reading %d images in %s once, to notice later whether one has changed", len(changed), folder)
            digests |= zip(changed, pool.map(hash_file, changed), strict=True)
    except OSError as error:
        raise unreadable(error) from error
    new = {names[path]: [*states[path], digests[path]] for path in changed if now - states[path][1] > MIN_AGE}
    if memory and new:
        write_memory(memory, {**remembered, **new})
    return digests


def read_states(paths: Sequence[str]) -> list[tuple[int, int]]:
    """Return (size in bytes, time of modification in ns) of each file."""
    return [(state.st_size, state.st_mtime_ns) for state in map(os.stat, paths)]


def hash_file(path: str) -> str:
    """Return 32 hexadecimal digits of the SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


def read_memory(path: Path) -> dict[str, list[Any]]:
    """Return the remembered digests; empty if there are none or the file is damaged."""
    try:
        entries = read_json(path)
        return {name: [int(size), int(time), str(digest)] for name, (size, time, digest) in entries.items()}
    except (UserError, ValueError, TypeError, AttributeError):
        return {}


def write_memory(path: Path, entries: Mapping[str, Sequence[Any]]) -> None:
    """Remember digests, or log that the folder is not writable."""
    try:
        with replace_atomically(path) as temporary:
            temporary.write_text(json.dumps(entries, separators=(",", ":")))
    except UserError as error:
        log.warning("The images are read again at every command, because their digests cannot be remembered: %s", error)


def unreadable(error: OSError) -> UserError:
    """Return the error about an image that cannot be read."""
    # torchvision takes any existing folder for a complete download.
    return UserError(
        f"an image cannot be read ({error}). Restore it, or if torchvision was interrupted while it downloaded the "
        "dataset, delete its folder and re-run the command, which downloads the dataset again"
    )
