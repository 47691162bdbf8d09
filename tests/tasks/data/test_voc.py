"""VOC: images with one class per pixel, and one sentence about each mistake in a mask."""

import numpy as np
import pytest
import torch
from PIL import Image

from core.runtime.errors import UserError
from tasks.data import voc
from tasks.data.splits import DataOptions
from tests.tasks.archives import write_voc

FOLDER = "VOCdevkit/VOC2012"


@pytest.fixture
def root(tmp_path):
    write_voc(tmp_path)
    return tmp_path


def options(root, **values):
    return DataOptions("voc", root=str(root), val_fraction=0.25, image_size=48, **values)


def write_mask(root, pixels, mode="L"):
    """Replace the mask of the first test image, which has 40 + 2 by 30 + 1 pixels."""
    path = root / FOLDER / "SegmentationClass/2007_000101.png"
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def test_masks_hold_the_classes_of_the_palette_image(root):
    data = voc.load(options(root))
    assert data.facts == {"num_classes": 21, "channels": 3, "image_size": 48}
    assert (len(data.train), len(data.val), len(data.test)) == (6, 2, 4)
    assert not set(data.train.indices) & set(data.val.indices) and data.train.scenes is data.val.scenes
    image, mask = data.test.scenes[0]  # number 101 shows class 101 % 21
    assert image.shape == (3, 31, 42) and image.dtype == mask.dtype == torch.uint8
    expected = torch.zeros(31, 42, dtype=torch.uint8)
    expected[5:20, 10:30], expected[6:19, 11:29] = 255, 17
    assert torch.equal(mask.as_subclass(torch.Tensor), expected)


def test_training_images_are_cropped_and_others_resized_with_their_masks(root):
    data = voc.load(options(root))
    sizes = set()
    for seed in range(12):
        torch.manual_seed(seed)
        image, mask = data.train[0]
        assert image.shape == (3, 48, 48) and mask.shape == (48, 48) and mask.dtype == torch.int64
        assert type(image) is type(mask) is torch.Tensor and image.dtype == torch.uint8
        torch.manual_seed(seed)
        assert torch.equal(data.train[0][1], mask), "the same seed gives the same image"
        # Only padding is black in the image and void in its mask, because the border of the object is on noise.
        padded = (image == 0).all(0) & (mask == 255)
        sizes.add(int((~padded).sum()))
    assert len(sizes) > 3, "all training images have the same scale"
    image, mask = data.test[0]
    assert image.shape == (3, 52, 70) and mask.shape == (52, 70) and mask.dtype == torch.int64
    assert set(mask.unique().tolist()) == {0, 17, 255} and torch.equal(data.test[0][0], image)


@pytest.mark.parametrize(
    "pixels, mode, message",
    [
        (np.zeros((30, 42), dtype=np.uint8), "L", r"has 42×30 pixels, but .*2007_000101\.jpg has 42×31"),
        (np.full((31, 42), 21, dtype=np.uint8), "L", "has a pixel of class 21, but the classes are 0 to 20"),
        (np.full((31, 42), 254, dtype=np.uint8), "P", "has a pixel of class [0-9]+, but the classes are 0 to 20"),
        (np.zeros((31, 42), dtype=np.uint8), "RGB", "has colors .*mode RGB.* class indices"),
    ],
)
def test_a_mistake_in_a_mask_is_one_sentence_that_names_file_and_value(root, pixels, mode, message):
    path = write_mask(root, pixels, mode)
    with pytest.raises(UserError, match=f"{path} {message}.*Replace the mask") as error:
        voc.load(options(root)).test[0]
    assert "\n" not in str(error.value)


def test_a_mask_without_objects_works(root):
    write_mask(root, np.zeros((31, 42), dtype=np.uint8))
    assert not voc.load(options(root)).test[0][1].any()


@pytest.mark.parametrize("name", ["SegmentationClass/2007_000101.png", "JPEGImages/2007_000101.jpg"])
@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_a_file_that_is_no_image_is_named(root, name, damage):
    path = root / FOLDER / name
    content = path.read_bytes()
    path.unlink()
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=f"{path} cannot be read as an image"):
        voc.load(options(root)).test[0]


@pytest.mark.parametrize("name", ["JPEGImages", "SegmentationClass", "ImageSets/Segmentation/val.txt"])
def test_a_missing_folder_or_list_is_named(root, name):
    (root / FOLDER / name).rename(root / "elsewhere")
    with pytest.raises(UserError, match=rf"{root / FOLDER / name} is missing\. Set task\.data\.root=FOLDER .*\.tar"):
        voc.load(options(root))


def test_an_empty_list_is_refused(root):
    path = root / FOLDER / "ImageSets/Segmentation/train.txt"
    path.write_text("")
    with pytest.raises(UserError, match=f"{path} names no images"):
        voc.load(options(root))


@pytest.mark.parametrize("column", [0, 1])
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_an_edited_pixel_of_an_image_or_a_mask_is_found_in_its_split(root, split, column):
    before = voc.load(options(root)).digests
    part = voc.load(options(root)).originals.splits[split]
    path = part.dataset.describe_content().paths_N[part.indices[-1], column]
    pixels = np.array(Image.open(path))
    pixels[3, 5] ^= 128 if column == 0 else 1
    Image.fromarray(pixels).save(path)
    after = voc.load(options(root)).digests
    assert [name for name in before if before[name] != after[name]] == [split]
