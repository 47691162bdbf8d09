"""COCO: items of detection and segmentation, splits, and one sentence about each mistake in the annotation file."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Subset

from core.runtime.errors import UserError
from tasks.data import coco, coco_annotations
from tasks.data.splits import DataOptions
from tasks.networks.detectors import build_detector
from tests.tasks.archives import COCO_SIZE, write_coco

pytest.importorskip("pycocotools")
WIDTH, HEIGHT = COCO_SIZE


@pytest.fixture
def root(tmp_path):
    write_coco(tmp_path)
    return tmp_path


def options(root, **values):
    return DataOptions("coco", root=str(root), val_fraction=0.25, **values)


def edit(root, change, name="train2017"):
    """Apply a change to the content of an annotation file."""
    path = root / f"annotations/instances_{name}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


def test_detection_has_the_boxes_of_the_file_as_corners(root):
    data = coco.load_detection(options(root))
    assert data.facts == {"num_classes": 91, "channels": 3, "image_size": 800}
    assert (len(data.train), len(data.val), len(data.test)) == (6, 2, 4)
    image, target = data.test[0]
    assert image.shape == (3, HEIGHT, WIDTH) and image.dtype == torch.uint8 and type(image) is torch.Tensor
    assert torch.equal(target["boxes"], torch.tensor([[4.0, 6, 34, 26], [20, 10, 55, 38]]))
    assert type(target["boxes"]) is torch.Tensor and target["boxes"].dtype == torch.float32
    assert target["labels"].tolist() == [1, 62] and target["labels"].dtype == torch.int64
    assert target["area"].tolist() == [600, 980] and target["area"].dtype == torch.float32
    assert target["iscrowd"].tolist() == [0, 0] and target["iscrowd"].dtype == torch.uint8
    assert target["image_id"] == 101
    assert data.test[2][1]["iscrowd"].tolist() == [0, 1]


def test_an_image_without_objects_has_empty_boxes(root):
    _, target = coco.load_detection(options(root)).test[1]
    shapes = {name: tuple(value.shape) for name, value in target.items() if name != "image_id"}
    assert shapes == {"boxes": (0, 4), "labels": (0,), "area": (0,), "iscrowd": (0,)}


def test_training_images_are_mirrored_with_their_boxes_and_hold_no_crowds(root):
    data = coco.load_detection(options(root))
    for position, index in enumerate(data.train.indices):
        plain, plain_target = data.train.scenes[index]
        x1, y1, x2, y2 = plain_target["boxes"][plain_target["iscrowd"] == 0].as_subclass(torch.Tensor).T
        seen = set()
        for seed in range(8):
            torch.manual_seed(seed)
            image, target = data.train[position]
            mirrored = not torch.equal(image, plain)
            assert torch.equal(image.flip(-1) if mirrored else image, plain)
            expected = (WIDTH - x2, y1, WIDTH - x1, y2) if mirrored else (x1, y1, x2, y2)
            assert torch.equal(target["boxes"], torch.stack(expected, dim=1)) and not target["iscrowd"].any()
            seen.add(mirrored)
        assert seen == {True, False}


def test_validation_is_a_fixed_random_part_of_the_training_images(root):
    first, again, other = (coco.load_detection(options(root, split_seed=seed)) for seed in (0, 0, 1))
    assert not set(first.train.indices) & set(first.val.indices)
    assert sorted([*first.train.indices, *first.val.indices]) == list(range(8))
    assert np.array_equal(first.val.indices, again.val.indices)
    assert not np.array_equal(first.val.indices, other.val.indices)


def test_segmentation_has_the_classes_of_voc_and_overlaps_are_void(root):
    data = coco.load_segmentation(options(root))
    assert data.facts == {"num_classes": 21, "channels": 3, "image_size": 480}
    image, mask = data.test.scenes[0]
    assert mask.shape == (HEIGHT, WIDTH) and image.shape == (3, HEIGHT, WIDTH)
    expected = torch.zeros(HEIGHT, WIDTH, dtype=torch.uint8)
    expected[6:26, 4:34], expected[10:38, 20:55] = 15, 9  # person and chair
    expected[10:26, 20:34] = 255
    assert torch.equal(mask.as_subclass(torch.Tensor), expected)
    assert not data.test.scenes[3][1].any(), "a toothbrush is no class of VOC"
    assert (data.test.scenes[2][1][5:35, 40:55] == 255).all(), "the crowd overlaps the car"


def test_training_images_of_segmentation_show_enough_and_validation_images_any(root):
    data = coco.load_segmentation(options(root))
    assert {index % 4 for index in data.train.indices} == {0, 2}, (
        "the others show nothing or too little of VOC's classes"
    )
    assert len(data.val) == 2 and len(data.test) == 4
    edit(root, lambda content: [annotation.update(area=500) for annotation in content["annotations"]])
    with pytest.raises(UserError, match=f"{root} has too few images: 0 to train on"):
        coco.load_segmentation(options(root))


def test_segmentation_items_are_cropped_or_resized_with_their_masks(root):
    data = coco.load_segmentation(options(root, image_size=48))
    for _ in range(5):
        image, mask = data.train[0]
        assert image.shape == (3, 48, 48) and mask.shape == (48, 48)
        assert image.dtype == torch.uint8 and mask.dtype == torch.int64 and type(mask) is torch.Tensor
    image, mask = data.test[0]
    assert image.shape[1:] == mask.shape == (52, 78)
    assert set(mask.unique().tolist()) == {0, 9, 15, 255}


def change_annotation(**values):
    return lambda content: content["annotations"][1].update(values)


def remove(name, field):
    return lambda content: content[name][1].pop(field)


BROKEN = {
    "no annotations": (lambda content: content.update(annotations=[]), r"holds no annotations"),
    "no list of annotations": (lambda content: content.pop("annotations"), r"holds no annotations"),
    "no images": (lambda content: content.update(images=[]), r"holds no images"),
    "no categories": (lambda content: content.pop("categories"), r"holds no categories"),
    "category": (change_annotation(category_id=7), r"annotation 11 is of unknown category 7.* 1, 3, 62, 90"),
    "image": (change_annotation(image_id=77), r"annotation 11 is of unknown image 77"),
    "zero size": (change_annotation(bbox=[4, 4, 0, 5]), r"annotation 11 has the box \[4, 4, 0, 5\].*zero size"),
    "outside": (change_annotation(bbox=[50, 4, 15, 5]), r"annotation 11 .*\[50, 4, 15, 5\].*outside image 1 of 60×40"),
    "negative": (change_annotation(bbox=[-9, 4, 15, 5]), r"annotation 11 .*outside image 1"),
    "three numbers": (change_annotation(bbox=[1, 2, 3]), r"annotation 11 has the box \[1, 2, 3\].*four numbers"),
    "not a number": (change_annotation(bbox=[1, 2, 3, float("nan")]), r"annotation 11 has the box .*four numbers"),
    "area": (change_annotation(area="big"), r'annotation 11 has area="big"'),
    "iscrowd": (change_annotation(iscrowd=2), r"annotation 11 .*iscrowd=2"),
    "no box": (remove("annotations", "bbox"), r"an entry of annotations has no bbox"),
    "no width": (remove("images", "width"), r"an entry of images has no width"),
    "size": (lambda content: content["images"][1].update(width=0), r"image 2 has the size 0×40"),
    "same id": (change_annotation(id=10), r"two entries of annotations have the id 10"),
    "text as id": (change_annotation(id="x"), r'an entry of annotations has the id "x"'),
    "category 0": (lambda content: content["categories"][0].update(id=0), r"category 'person' has the id 0"),
}


@pytest.mark.parametrize("mistake", BROKEN)
def test_a_mistake_in_the_annotations_is_one_sentence_that_names_file_and_value(root, mistake):
    change, message = BROKEN[mistake]
    path = edit(root, change)
    with pytest.raises(UserError, match=f"{path}.*({message})") as error:
        coco.load_detection(options(root))
    assert "\n" not in str(error.value) and "task.data.root=FOLDER" in str(error.value)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"images": 3}', '{"images": [{}]}', "\0"])
def test_a_file_of_another_format_is_refused(root, content):
    path = root / "annotations/instances_val2017.json"
    path.write_text(content)
    with pytest.raises(UserError, match=f"{path}: the file "):
        coco.load_detection(options(root))


@pytest.mark.parametrize(
    "outline", [[], None, [[1, 2, 3, 4]], [[1, 2, 3, 4, 5, 6, 7]], {"size": [2, 2], "counts": [4]}]
)
def test_an_invalid_outline_is_refused_in_segmentation_only(root, outline):
    path = edit(root, change_annotation(segmentation=outline))
    coco.load_detection(options(root))
    with pytest.raises(UserError, match=f"{path}: annotation 11 has the segmentation .*three points"):
        coco.load_segmentation(options(root))


def test_the_few_unusable_boxes_of_the_real_file_are_left_out(root, monkeypatch, caplog):
    monkeypatch.setattr(coco_annotations, "TOLERATED_SHARE", 0.25)  # COCO has 2 in 860,001, here it is 1 in 10
    edit(root, change_annotation(bbox=[4, 4, 5, 0.0]))
    data = coco.load_detection(options(root))
    assert data.train.scenes[0][1]["labels"].tolist() == [1]
    assert "leaving out 1 of 10 annotations (annotation 11" in caplog.text


def test_a_box_that_leaves_its_image_by_a_rounding_error_is_cut(root):
    edit(root, change_annotation(bbox=[50, 4, 10.01, 36.5]))
    target = coco.load_detection(options(root)).train.scenes[0][1]
    assert target["boxes"][1].tolist() == [50, 4, 60, 40]


def test_splits_with_other_categories_are_refused(root):
    path = edit(root, lambda content: content["categories"].append({"id": 5, "name": "airplane"}), "val2017")
    with pytest.raises(UserError, match=f"{path}: category 5 is not in both"):
        coco.load_detection(options(root))


@pytest.mark.parametrize("name", ["val2017", "annotations/instances_train2017.json"])
def test_a_missing_folder_or_file_is_named(root, name):
    (root / name).rename(root / "elsewhere")
    with pytest.raises(UserError, match=rf"{root / name} is missing\. Set task\.data\.root=FOLDER .*\.zip"):
        coco.load_detection(options(root))


def test_a_damaged_image_and_one_of_another_size_are_named(root):
    first, second = (root / f"val2017/{number:012}.jpg" for number in (101, 102))
    first.write_bytes(first.read_bytes()[:300])
    Image.new("RGB", (10, 10)).save(second)
    data = coco.load_detection(options(root))
    with pytest.raises(UserError, match=f"{first} cannot be read as an image"):
        data.test[0]
    with pytest.raises(UserError, match=f"{second} has 10×10 pixels, but .*instances_val2017.json says 60×40"):
        data.test[1]


@pytest.mark.parametrize("load", [coco.load_detection, coco.load_segmentation])
@pytest.mark.parametrize("split", ["val", "test"])
def test_a_split_without_any_object_is_refused(root, split, load):
    indices = map(int, load(options(root)).val.indices) if split == "val" else range(4)
    ids = {index + (101 if split == "test" else 1) for index in indices}

    def clear(content):  # A crowd of toothbrushes is left, which are no class of VOC, as an empty list is refused.
        kept = [entry for entry in content["annotations"] if entry["image_id"] not in ids]
        crowd = {**content["annotations"][0], "image_id": min(ids), "category_id": 90, "iscrowd": 1, "id": 9999}
        content["annotations"] = [*kept, crowd]

    edit(root, clear, "val2017" if split == "test" else "train2017")
    with pytest.raises(
        UserError, match=rf"{root}: none of the \d images of the split {split} shows an object"
    ) as error:
        load(options(root))
    assert "\n" not in str(error.value) and "task.data.root=FOLDER" in str(error.value)


def test_an_image_without_objects_is_a_negative_image_of_training_and_of_scoring(root):
    data = coco.load_detection(options(root))
    index = next(position for position, image in enumerate(data.train.indices) if image % 4 == 1)
    image, target = data.train[index]
    assert len(target["boxes"]) == 0
    network = build_detector("fcos_small", num_classes=91, image_size=32, options={"channels": [8, 8, 8, 8]})
    loss = data.objective.compute_loss(network, [image / 255.0], [target])
    loss.backward()
    assert torch.isfinite(loss) and network.head.classification_head.cls_logits.weight.grad.any()
    counter = data.objective.count_scores(1, torch.device("cpu"))
    false = {"boxes": torch.tensor([[[1.0, 1, 9, 9]]]), "scores": torch.tensor([[0.9]]), "labels": torch.tensor([[3]])}
    nothing = {
        "boxes": torch.zeros(1, 0, 4),
        "scores": torch.zeros(1, 0),
        "labels": torch.zeros(1, 0, dtype=torch.int64),
    }
    one_object = {"boxes": torch.tensor([[1.0, 1, 9, 9]]), "labels": torch.tensor([5])}
    counter.add([(slice(0, 1), [false, nothing])], [target, one_object])
    wrong_N = counter.finish().wrong_MN[0]
    assert np.flatnonzero(wrong_N).tolist() == [2, 90], "the false box of class 3, and the object of the other image"


def test_a_missing_pycocotools_is_one_sentence(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    with pytest.raises(UserError, match="pip install pycocotools"):
        coco.load_detection(options(root))


@pytest.mark.parametrize("load", [coco.load_detection, coco.load_segmentation])
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_an_edited_pixel_or_annotation_is_found_in_its_split(root, split, load):
    before = load(options(root)).digests
    part = load(options(root)).originals.splits[split]
    assert isinstance(part, Subset)
    scenes, index = part.dataset, next(i for i in part.indices if part.dataset.list_annotations(i))
    path = scenes.find_path(index)
    pixels = np.array(Image.open(path))
    Image.fromarray(pixels ^ 1).save(path)
    after = load(options(root)).digests
    assert [name for name in before if before[name] != after[name]] == [split]
    wanted = scenes.list_annotations(index)[0]["id"]

    def move(content):
        annotation = next(entry for entry in content["annotations"] if entry["id"] == wanted)
        annotation["bbox"][2] -= 0.25
        annotation["segmentation"][0][2] -= 0.25

    edit(root, move, scenes.path.stem.removeprefix("instances_"))
    last = load(options(root)).digests
    assert [name for name in last if last[name] != after[name]] == [split]
    assert last == load(options(root)).digests
