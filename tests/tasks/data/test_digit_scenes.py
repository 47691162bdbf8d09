"""Scenes of digits: true formats on disk, the same bytes for the same seed, and no digit in two splits."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from core.runtime.errors import UserError
from tasks.data import digit_scenes, digits
from tasks.data.digit_scenes import NUM_IMAGES, deal_digits, make_palette, split_digits
from tasks.data.scene_drawing import CANVAS, MAX_OVERLAP, SIZES, draw_scene, find_box, measure_overlap
from tasks.data.splits import DataOptions

FEW = {"train": 20, "val": 10, "test": 10}


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(digit_scenes, "NUM_IMAGES", FEW)


def options(root, **values):
    return DataOptions("digit_scenes", root=str(root), **values)


def read_files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.*") if path.is_file()}


def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_folder(few, tmp_path):
    first, again = (digit_scenes.prepare(tmp_path / name, 0) for name in "ab")
    assert first.name == again.name and first.name.startswith("digit_scenes_")
    files = read_files(first)
    assert files == read_files(again) and len(files) == 3 * 40 + 6
    other = digit_scenes.prepare(tmp_path / "a", 1)
    assert other.name != first.name and read_files(other) != files


def test_scenes_are_written_once(few, tmp_path):
    folder = digit_scenes.prepare(tmp_path, 0)
    path = folder / "train2017/000000000001.jpg"
    path.write_bytes(b"edited")
    assert digit_scenes.prepare(tmp_path, 0) == folder and path.read_bytes() == b"edited"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_interrupted_writing_leaves_nothing(few, tmp_path, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(digit_scenes, "write_voc", fail)
    with pytest.raises((UserError, KeyboardInterrupt)) as caught:
        digit_scenes.prepare(tmp_path, 0)
    assert isinstance(caught.value, KeyboardInterrupt) or str(tmp_path) in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_another_process_is_used(few, tmp_path, monkeypatch):
    folder = digit_scenes.prepare(tmp_path, 0)
    elsewhere = folder.rename(tmp_path / "elsewhere")
    monkeypatch.setattr(digit_scenes.os, "sync", lambda: elsewhere.rename(folder))  # it is ready just before this one
    assert digit_scenes.prepare(tmp_path, 0) == folder and [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_no_digit_is_in_two_splits_and_those_of_validation_and_test_appear_once():
    pools = split_digits(load_digits().target, 0)
    assert {name: len(pool) for name, pool in pools.items()} == {"train": 900, "val": 300, "test": 597}
    shown = {name: np.concatenate(list(deal_digits(pools[name], NUM_IMAGES[name], 0))) for name in pools}
    for name, pool in pools.items():
        assert set(shown[name]) <= set(pool)
    for name in ("val", "test"):
        assert len(shown[name]) == len(set(shown[name])) == 2 * NUM_IMAGES[name]
    assert np.bincount(shown["train"])[pools["train"]].min() == 1 and len(shown["train"]) == 1600
    # The digits are those of the same splits of the dataset `digits`.
    groups = digits.load(DataOptions("digits", root="unused")).groups
    assert {name: set(groups[name]) for name in groups} == {name: set(pools[name]) for name in ("val", "test")}


def test_both_formats_show_the_same_scenes(few, tmp_path):
    pytest.importorskip("pycocotools")
    boxes, masks = digit_scenes.load_detection(options(tmp_path)), digit_scenes.load_segmentation(options(tmp_path))
    expected = {"num_classes": 11, "channels": 3, "image_size": 64}
    assert boxes.facts == masks.facts == expected
    for split, count in FEW.items():
        assert len(boxes.split(split)) == len(masks.split(split)) == count
    for (image, target), (same, mask) in zip(boxes.test, masks.test, strict=True):
        assert torch.equal(image, same) and image.shape == (3, 64, 64) and mask.shape == (64, 64)
        assert 1 <= len(target["boxes"]) <= 4 and not target["iscrowd"].any()
        assert set(target["labels"].tolist()) == set(mask.unique().tolist()) - {0, 255}
        for box, label in zip(target["boxes"].int().tolist(), target["labels"], strict=True):
            assert (mask[box[1] : box[3], box[0] : box[2]] == label).any()
        inside = torch.zeros(64, 64, dtype=torch.bool)
        for x1, y1, x2, y2 in target["boxes"].int().tolist():
            inside[y1:y2, x1:x2] = True
        assert not mask[~inside].lt(255).logical_and(mask[~inside] > 0).any()


def test_the_files_are_those_of_coco_and_voc(few, tmp_path):
    folder = digit_scenes.prepare(tmp_path, 0)
    content = json.loads((folder / "annotations/instances_test2017.json").read_text())
    assert [category["name"] for category in content["categories"]] == [str(digit) for digit in range(10)]
    assert [category["id"] for category in content["categories"]] == list(range(1, 11))
    assert len(content["images"]) == 10 and len(content["annotations"]) == 20
    mask = Image.open(next((folder / "VOCdevkit/VOC2007/SegmentationClass").iterdir()))
    assert mask.mode == "P" and mask.getpalette() == make_palette()
    assert make_palette()[:9] == [0, 0, 0, 128, 0, 0, 0, 128, 0] and make_palette()[-3:] == [224, 224, 192]
    assert Image.open(folder / "train2017/000000000001.jpg").format == "JPEG"


def test_an_edited_mask_is_found_in_its_split(few, tmp_path):
    before = digit_scenes.load_segmentation(options(tmp_path)).digests
    data = digit_scenes.load_segmentation(options(tmp_path))
    path = Path(data.val.scenes.masks[3])
    pixels = np.array(Image.open(path))
    pixels[0, 0] = 5
    Image.fromarray(pixels).save(path)
    after = digit_scenes.load_segmentation(options(tmp_path)).digests
    assert [name for name in before if before[name] != after[name]] == ["val"]


def test_digits_are_never_mirrored(few, tmp_path):
    pytest.importorskip("pycocotools")
    for load in (digit_scenes.load_detection, digit_scenes.load_segmentation):
        assert "Flip" not in repr(load(options(tmp_path)).train.transform)


def test_digits_have_the_documented_sizes_and_overlap_little():
    images = load_digits()
    for seed in range(40):
        random = np.random.default_rng(seed)
        chosen = random.integers(0, len(images.target), 4)
        scene = draw_scene(images.images[chosen], images.target[chosen], random)
        assert scene.image_SS3.shape == (CANVAS, CANVAS, 3) and scene.image_SS3.dtype == np.uint8
        objects = list(scene.list_objects())
        assert [digit for digit, _ in objects] == images.target[chosen].tolist()
        boxes = [find_box(pixels) for _, pixels in objects]
        assert max((box[2:] - box[:2]).max() for box in boxes) <= SIZES[1]
        shares = [measure_overlap(box, other) for index, box in enumerate(boxes) for other in boxes[:index]]
        assert max(shares) <= 2 * MAX_OVERLAP  # the visible part of a covered digit may have a smaller box
