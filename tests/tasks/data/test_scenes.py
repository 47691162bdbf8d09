"""Scenes: batches, the carving of validation images, and digests of the items of the user's own scenes."""

import pytest
import torch
from torchvision import tv_tensors

from tasks.data import coco, voc
from tasks.data.digests import digest_items
from tasks.data.loaders import make_fixed_loader, make_training_loader
from tasks.data.scenes import carve, collate_detection, collate_segmentation, make_segmentation_transforms
from tasks.data.splits import DataOptions
from tasks.objectives.segmentation import VOID
from tests.tasks.archives import write_coco, write_voc


def test_a_batch_of_detection_is_two_lists():
    items = [(torch.zeros(3, 4, 5), {"boxes": torch.zeros(0, 4)}), (torch.zeros(3, 6, 2), {"boxes": torch.ones(1, 4)})]
    images, targets = collate_detection(items)
    assert images == [items[0][0], items[1][0]] and targets == [items[0][1], items[1][1]]


def test_a_batch_of_segmentation_is_padded_at_the_right_and_at_the_bottom():
    items = [
        (torch.full((3, 4, 5), 7, dtype=torch.uint8), torch.ones(4, 5, dtype=torch.int64)),
        (torch.full((3, 6, 2), 8, dtype=torch.uint8), torch.zeros(6, 2, dtype=torch.int64)),
    ]
    images, masks = collate_segmentation(items)
    assert images.shape == (2, 3, 6, 5) and images.dtype == torch.uint8
    assert masks.shape == (2, 6, 5) and masks.dtype == torch.int64
    assert (images[0, :, :4] == 7).all() and not images[0, :, 4:].any()
    assert (masks[0, :4] == 1).all() and (masks[0, 4:] == VOID).all() and (masks[1, :, 2:] == VOID).all()
    assert (images[1, :, :, :2] == 8).all() and not masks[1, :, :2].any()


def test_masks_follow_the_augmentations_of_their_images():
    mask = torch.zeros(40, 60, dtype=torch.uint8)
    mask[5:30, 4:30] = 3
    image = tv_tensors.Image((60 + 50 * mask).expand(3, 40, 60).clone())
    augmented, plain = make_segmentation_transforms(base=40, crop=48, flips=True)
    left = set()
    for seed in range(20):
        torch.manual_seed(seed)
        new_image, new_mask = augmented(image, tv_tensors.Mask(mask))
        shown, is_void = new_image[0] > 135, new_mask == VOID
        assert ((new_image[0] == 0) == is_void).all(), "padding is black in the image and void in the mask"
        wrong = shown[~is_void] != (new_mask[~is_void] == 3)
        assert wrong.float().mean() < 0.05, "only pixels at the border are mixed by resizing"
        columns = torch.nonzero(~is_void)[:, 1].float().mean(), torch.nonzero(new_mask == 3)[:, 1].float().mean()
        left.add(bool(columns[1] < columns[0]))
    assert left == {True, False}, "some images are mirrored"
    assert torch.equal(plain(image, tv_tensors.Mask(mask))[1], mask.long())


@pytest.mark.parametrize("count, fraction, expected", [(100, 0.1, 10), (3, 0.01, 1), (2, 0.99, 1)])
def test_carving_gives_at_least_one_image_to_each_part(count, fraction, expected):
    train, val = carve(count, fraction, seed=0)
    assert len(val) == expected and sorted([*train, *val]) == list(range(count))
    assert val.tolist() == carve(count, fraction, seed=0)[1].tolist()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_loaders_give_the_same_scenes_with_any_number_of_workers(tmp_path, num_workers):
    write_voc(tmp_path)
    data = voc.load(DataOptions("voc", root=str(tmp_path), image_size=48))
    given = {"num_workers": num_workers, "collate": collate_segmentation}
    (images, masks), *_ = make_training_loader(data.train, 4, seed=3, **given)
    expected, *_ = make_training_loader(data.train, 4, seed=3, collate=collate_segmentation)
    assert torch.equal(images, expected[0]) and torch.equal(masks, expected[1]) and masks.shape == (4, 48, 48)
    ((images, masks),) = make_fixed_loader(data.test, 4, **given)
    assert images.shape[2:] == masks.shape[1:]


def test_loaders_give_lists_of_boxes(tmp_path):
    pytest.importorskip("pycocotools")
    write_coco(tmp_path)
    data = coco.load_detection(DataOptions("coco", root=str(tmp_path)))
    images, targets = next(iter(make_training_loader(data.train, 4, seed=3, collate=collate_detection)))
    assert len(images) == len(targets) == 4 and all(len(t["boxes"]) == len(t["labels"]) for t in targets)


def test_the_users_own_boxes_and_masks_count_in_digests():
    def digest(**changes):
        target = {"boxes": torch.ones(1, 4), "labels": torch.tensor([3]), "image_id": 5, "score": torch.tensor(0.5)}
        items = [(torch.zeros(3, 4, 4), {**target, **changes})]
        masks = [(torch.zeros(3, 4, 4), changes.get("mask", torch.zeros(4, 4)))]
        return digest_items({"val": items, "test": masks})

    before, one_pixel = digest(), torch.zeros(4, 4)
    one_pixel[2, 1] = 1
    assert digest() == before and digest(mask=one_pixel)["test"] != before["test"]
    edits = {"boxes": torch.full((1, 4), 1.5), "labels": torch.tensor([4]), "image_id": 6, "score": torch.tensor(0.6)}
    for name, value in edits.items():
        after = digest(**{name: value})
        assert after["val"] != before["val"] and after["test"] == before["test"], name
