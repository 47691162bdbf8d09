"""Digests of images: any edited pixel or label is found in its split, and files that did not change are not read."""

import json
import logging
import os
import time

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, Subset, TensorDataset

from core.runtime.errors import UserError
from tasks.data import digests as digests_module
from tasks.data.datasets import load_images
from tasks.data.digests import MEMORY, digest_items, find_content
from tasks.data.splits import DataOptions
from tests.tasks import archives
from tests.tasks.archives import write_imagefolder

FILES = ["flowers102", "pets", "food101", "imagenet"]
ARRAYS = ["mnist", "cifar10", "cifar100", "svhn", "stl10"]


def set_age(path, seconds):
    """Set the time of modification to a time in the past."""
    moment = time.time_ns() - seconds * 10**9
    os.utime(path, ns=(moment, moment))


@pytest.fixture
def folder(tmp_path):
    """Return a folder of images that were written a minute ago."""
    write_imagefolder(tmp_path, per_class=10)
    for path in tmp_path.rglob("*.jpg"):
        set_age(path, 60)
    return tmp_path


@pytest.fixture
def read(monkeypatch):
    """Return the list of files that were read to compute digests."""
    files, hash_file = [], digests_module.hash_file
    monkeypatch.setattr(digests_module, "hash_file", lambda path: files.append(path) or hash_file(path))
    return files


def open_folder(folder, **options):
    return load_images(DataOptions("imagefolder", root=str(folder), image_size=32, **options))


def edit_pixel(path):
    pixels = np.array(Image.open(path))
    pixels[3, 5] ^= 128
    Image.fromarray(pixels).save(path, "JPEG")


def differing(before, after):
    return [name for name in before if before[name] != after[name]]


@pytest.mark.parametrize("position", [0, 13, -1])
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_one_edited_pixel_is_found_in_its_split(folder, split, position):
    data = open_folder(folder)
    before = data.digests
    edit_pixel(find_content(data.originals.splits[split]).paths_N[min(position, len(data.split(split)) - 1)])
    assert differing(before, open_folder(folder).digests) == [split]


@pytest.mark.parametrize("position", [0, 9, -1])
@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize("dataset", ARRAYS)
def test_one_edited_number_in_memory_is_found_in_its_split(tmp_path_factory, dataset, split, position):
    root = tmp_path_factory.getbasetemp() / f"digests_{dataset}"
    if not root.is_dir():
        root.mkdir()
        getattr(archives, f"write_{dataset}")(root)
    pixel, label = (load_images(DataOptions(dataset, root=str(root), verify=False)) for _ in range(2))
    before = load_images(DataOptions(dataset, root=str(root), verify=False)).digests
    for data in (pixel, label):
        part = data.originals.splits[split]
        images, index = (part.dataset, part.indices[position]) if isinstance(part, Subset) else (part, position)
        if data is pixel:
            images.data[index][(1,) * (images.data.ndim - 1)] += 1
        else:
            labels = images.targets if hasattr(images, "targets") else images.labels
            labels[index] += 1
        assert differing(before, data.digests) == [split]


@pytest.mark.parametrize("dataset", FILES)
def test_every_file_of_a_dataset_of_photographs_counts(tmp_path, dataset, read):
    getattr(archives, f"write_{dataset}")(tmp_path)
    data = load_images(DataOptions(dataset, root=str(tmp_path), verify=False))
    before = data.digests
    assert len(read) == len(set(read)) == sum(len(data.split(name)) for name in ("train", "val", "test"))
    edit_pixel(find_content(data.originals.splits["test"]).paths_N[5])
    assert differing(before, load_images(DataOptions(dataset, root=str(tmp_path), verify=False)).digests) == ["test"]


def test_files_are_read_once_and_again_after_a_new_time_of_modification(folder, read):
    before = open_folder(folder).digests
    assert len(read) == 60 and set(json.loads((folder / MEMORY).read_text())) >= {"train/cat/0.jpg", "test/owl/9.jpg"}
    read.clear()
    assert open_folder(folder).digests == before and read == []
    set_age(folder / "test/dog/4.jpg", 30)
    assert open_folder(folder).digests == before and read == [str(folder / "test/dog/4.jpg")]
    read.clear()
    assert open_folder(folder).digests == before and read == []


def test_a_moved_folder_keeps_its_digests(folder, read):
    before = open_folder(folder).digests
    read.clear()
    moved = folder.rename(folder.with_name("moved"))
    assert open_folder(moved).digests == before and read == []


def test_a_file_that_was_written_just_now_is_not_remembered(folder, read):
    (folder / "test/dog/4.jpg").touch()
    for _ in range(2):
        read.clear()
        open_folder(folder).digests  # noqa: B018
    assert read == [str(folder / "test/dog/4.jpg")]


@pytest.mark.parametrize("content", ["", "[]", '{"train/cat/0.jpg": 3}', '{"train/cat/0.jpg": ["a", "b", "c"]}'])
def test_a_damaged_memory_is_replaced(folder, read, content):
    before = open_folder(folder).digests
    (folder / MEMORY).write_text(content)
    read.clear()
    assert open_folder(folder).digests == before and len(read) == 60
    assert len(json.loads((folder / MEMORY).read_text())) == 60


def test_a_folder_without_permission_to_write_is_named_once_in_the_log(folder, monkeypatch, caplog):
    def refuse(path):
        raise UserError(f"cannot write {path}")

    monkeypatch.setattr(digests_module, "replace_atomically", refuse)
    data = open_folder(folder)
    with caplog.at_level(logging.WARNING):
        assert data.digests == data.digests
    assert len(caplog.messages) == 1 and str(folder / MEMORY) in caplog.text


def test_a_missing_file_is_named(folder):
    data = open_folder(folder)
    (folder / "test/dog/4.jpg").unlink()
    with pytest.raises(UserError, match=r"image cannot be read .*test/dog/4\.jpg"):
        data.digests  # noqa: B018


def test_another_choice_of_validation_images_changes_both_splits(folder):
    before = open_folder(folder).digests
    assert differing(before, open_folder(folder, split_seed=1).digests) == ["train", "val"]


def test_digits_are_hashed_before_their_distortion():
    one, two = (load_images(DataOptions("digits", root="unused", image_size=size)) for size in (16, 20))
    assert one.digests == two.digests and one.preparation != two.preparation
    other = load_images(DataOptions("digits", root="unused", split_seed=1)).digests
    assert differing(one.digests, other) == ["train", "val", "test"]


class Augmented(Dataset):
    """Random training images."""

    def __len__(self):
        return 5

    def __getitem__(self, index):
        return torch.rand(1, 4, 4), index


def test_the_users_own_images_are_hashed_item_by_item_except_augmented_training_images():
    def digest(pixel=0.0, label=0, train=None):
        images, labels = torch.zeros(6, 1, 4, 4), torch.zeros(6, dtype=torch.long)
        images[4, 0, 2, 3], labels[3] = pixel, label
        tensors = TensorDataset(images, labels)
        listed = [tensors[index] for index in range(6)]
        return digest_items({"train": train or tensors, "val": Subset(tensors, range(6)), "test": listed})

    before = digest()
    assert differing(before, digest(pixel=1.0)) == differing(before, digest(label=1)) == ["train", "val", "test"]
    state = torch.get_rng_state()
    augmented = digest(train=Augmented())
    assert augmented["train"] == "5 images" and torch.equal(torch.get_rng_state(), state)
