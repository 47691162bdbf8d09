"""Every dataset by name. To add one: a line here and a file configs/task/<name>.yaml."""

from torchvision import datasets

from core.runtime.errors import UserError, nearest
from tasks.data import digits
from tasks.data.splits import DataOptions, ImageData
from tasks.data.torchvision_sets import AnyCIFAR10, AnyCIFAR100, cifar

DATASETS = {
    "digits": digits.load,
    "cifar10": cifar(datasets.CIFAR10, AnyCIFAR10, 10, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)),
    "cifar100": cifar(datasets.CIFAR100, AnyCIFAR100, 100, mean=(0.5071, 0.4867, 0.4408), std=(0.2675, 0.2565, 0.2761)),
}


def load_images(options: DataOptions) -> ImageData:
    """The three splits of a dataset.

    Raises:
        UserError: an unknown name, an impossible split, or images that are neither on disk nor to be downloaded.
    """
    if options.dataset not in DATASETS:
        raise UserError(f"task.data.dataset={options.dataset!r} is not a dataset known here: {nearest(options.dataset, DATASETS)}")
    if not 0 < options.val_fraction < 1:
        raise UserError(f"task.data.val_fraction={options.val_fraction}: expected a fraction between 0 and 1")
    return DATASETS[options.dataset](options)
