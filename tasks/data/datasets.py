"""Every dataset by name. To add one: a line here and a file configs/task/<name>.yaml."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from torch.utils.data import ConcatDataset, Dataset
from torchvision import datasets

from core.runtime.errors import UserError, nearest
from tasks.data import digits, image_folder
from tasks.data.splits import DataOptions, ImageData
from tasks.data.torchvision_sets import IMAGENET_COLORS, Load, Open, torchvision_set

CIFAR10_COLORS = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
CIFAR100_COLORS = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
SVHN_COLORS = (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)
STL10_COLORS = (0.4467, 0.4398, 0.4066), (0.2603, 0.2566, 0.2713)
HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)  # what p-diff's code uses for flowers
IMAGENET_ARCHIVES = (
    "its license forbids a download: put ILSVRC2012_devkit_t12.tar.gz, ILSVRC2012_img_train.tar and "
    "ILSVRC2012_img_val.tar from image-net.org there, or say with task.data.root=FOLDER where they are"
)


def by_train(kind: Callable[..., Dataset]) -> tuple[Open, Open]:
    """Return (train, test) of a class that takes train=True or False."""
    return partial(kind, train=True, download=True), partial(kind, train=False, download=True)


def by_split(
    kind: Callable[..., Dataset], train: str = "train", test: str = "test", **options: bool
) -> tuple[Open, Open]:
    """Return (train, test) of a class that takes split=…."""
    return partial(kind, split=train, **options), partial(kind, split=test, **options)


def open_flowers(root: Path) -> Dataset:
    """Return the official training and validation flowers: 10 of each class each."""
    return ConcatDataset([datasets.Flowers102(root, split=split, download=True) for split in ("train", "val")])


DATASETS: dict[str, Load] = {
    "digits": digits.load,
    "mnist": torchvision_set(
        *by_train(datasets.MNIST), num_classes=10, image_size=28, colors=((0.1307,), (0.3081,)), flips=False
    ),
    "cifar10": torchvision_set(*by_train(datasets.CIFAR10), num_classes=10, image_size=32, colors=CIFAR10_COLORS),
    "cifar100": torchvision_set(*by_train(datasets.CIFAR100), num_classes=100, image_size=32, colors=CIFAR100_COLORS),
    "svhn": torchvision_set(
        *by_split(datasets.SVHN, download=True), num_classes=10, image_size=32, colors=SVHN_COLORS, flips=False
    ),
    "stl10": torchvision_set(
        *by_split(datasets.STL10, download=True), num_classes=10, image_size=96, colors=STL10_COLORS
    ),
    "flowers102": torchvision_set(
        open_flowers,
        partial(datasets.Flowers102, split="test", download=True),
        num_classes=102,
        image_size=224,
        colors=HALF,
    ),
    "pets": torchvision_set(
        *by_split(datasets.OxfordIIITPet, "trainval", download=True),
        num_classes=37,
        image_size=224,
        colors=IMAGENET_COLORS,
    ),
    "food101": torchvision_set(
        *by_split(datasets.Food101, download=True), num_classes=101, image_size=224, colors=IMAGENET_COLORS
    ),
    "imagenet": torchvision_set(
        *by_split(datasets.ImageNet, test="val"),
        num_classes=1000,
        image_size=224,
        colors=IMAGENET_COLORS,
        how_to_get=IMAGENET_ARCHIVES,
    ),
    "imagefolder": image_folder.load,
}


def load_images(options: DataOptions) -> ImageData:
    """Return the three splits of a dataset.

    Raises:
        UserError: an unknown name, or images that are neither on disk nor to be downloaded.
    """
    if options.dataset not in DATASETS:
        raise UserError(
            f"task.data.dataset={options.dataset!r} is not a dataset known here: {nearest(options.dataset, DATASETS)}"
        )
    return DATASETS[options.dataset](options)
