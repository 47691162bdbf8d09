"""Every dataset by name. To add a dataset, add an entry to `DATASETS` and a file configs/task/<name>.yaml."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from torch.utils.data import ConcatDataset, Dataset
from torchvision import datasets

from core.runtime.errors import UserError, suggest_names
from tasks.data import coco, digit_scenes, digits, image_folder, noisy_images, voc
from tasks.data.splits import DataOptions, TaskData
from tasks.data.torchvision_sets import IMAGENET_COLORS, Load, Open, make_load

CIFAR10_COLORS = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
CIFAR100_COLORS = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
SVHN_COLORS = (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)
STL10_COLORS = (0.4467, 0.4398, 0.4066), (0.2603, 0.2566, 0.2713)
HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)  # p-diff's code normalizes flowers with these values
HOW_TO_GET_IMAGENET = (
    "ImageNet's license forbids an automatic download. Download ILSVRC2012_devkit_t12.tar.gz, ILSVRC2012_img_train.tar "
    "and ILSVRC2012_img_val.tar from image-net.org, and set task.data.root=FOLDER to the folder that holds them"
)


def open_by_flag(dataset: Callable[..., Dataset]) -> tuple[Open, Open]:
    """Return functions that open (train, test) of a torchvision class that takes train=True or False."""
    return partial(dataset, train=True, download=True), partial(dataset, train=False, download=True)


def open_by_split(
    dataset: Callable[..., Dataset], train: str = "train", test: str = "test", **options: bool
) -> tuple[Open, Open]:
    """Return functions that open (train, test) of a torchvision class that takes split="train" or "test"."""
    return partial(dataset, split=train, **options), partial(dataset, split=test, **options)


def open_flowers(root: Path) -> Dataset:
    """Return the official training and validation images, 10 + 10 per class."""
    return ConcatDataset([datasets.Flowers102(root, split=split, download=True) for split in ("train", "val")])


DATASETS: dict[str, Load] = {
    "digits": digits.load,
    "mnist": make_load(
        *open_by_flag(datasets.MNIST), num_classes=10, image_size=28, colors=((0.1307,), (0.3081,)), flips=False
    ),
    "cifar10": make_load(*open_by_flag(datasets.CIFAR10), num_classes=10, image_size=32, colors=CIFAR10_COLORS),
    "cifar100": make_load(*open_by_flag(datasets.CIFAR100), num_classes=100, image_size=32, colors=CIFAR100_COLORS),
    "svhn": make_load(
        *open_by_split(datasets.SVHN, download=True), num_classes=10, image_size=32, colors=SVHN_COLORS, flips=False
    ),
    "stl10": make_load(
        *open_by_split(datasets.STL10, download=True), num_classes=10, image_size=96, colors=STL10_COLORS
    ),
    "flowers102": make_load(
        open_flowers,
        partial(datasets.Flowers102, split="test", download=True),
        num_classes=102,
        image_size=224,
        colors=HALF,
    ),
    "pets": make_load(
        *open_by_split(datasets.OxfordIIITPet, "trainval", download=True),
        num_classes=37,
        image_size=224,
        colors=IMAGENET_COLORS,
    ),
    "food101": make_load(
        *open_by_split(datasets.Food101, download=True), num_classes=101, image_size=224, colors=IMAGENET_COLORS
    ),
    "imagenet": make_load(
        *open_by_split(datasets.ImageNet, test="val"),
        num_classes=1000,
        image_size=224,
        colors=IMAGENET_COLORS,
        how_to_get=HOW_TO_GET_IMAGENET,
    ),
    "imagefolder": image_folder.load,
    "voc_segmentation": voc.load,
    "coco_segmentation": coco.load_segmentation,
    "coco_detection": coco.load_detection,
    "digit_scenes_segmentation": digit_scenes.load_segmentation,
    "digit_scenes_detection": digit_scenes.load_detection,
    "digits_generation": noisy_images.load_digit_images,
    "cifar10_generation": noisy_images.load_cifar10,
}


def load_images(options: DataOptions) -> TaskData:
    """Return the three splits of a dataset.

    Raises:
        UserError: The name is unknown, or the images are not on disk and cannot be downloaded.
    """
    if options.dataset not in DATASETS:
        raise UserError(
            f"task.data.dataset={options.dataset} is unknown. Set task.data.dataset=NAME to a known dataset "
            f"({suggest_names(options.dataset, DATASETS)})"
        )
    return DATASETS[options.dataset](options)
