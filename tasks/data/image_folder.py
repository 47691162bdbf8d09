"""The user's own images: one folder per class."""

from pathlib import Path

import numpy as np
from torch.utils.data import Dataset
from torchvision.datasets import ImageFolder

from core.runtime.errors import UserError
from tasks.data.splits import DataOptions, ImageData, carve_validation
from tasks.data.torchvision_sets import IMAGENET_COLORS, image_data, open_or_explain

LAYOUT = (
    "task.data.root=FOLDER must hold FOLDER/train/<class>/… and FOLDER/test/<class>/… (and FOLDER/val/<class>/… if there is one), "
    "or FOLDER/<class>/… alone, of which a part becomes the test images"
)
IMAGE_SIZE = 224


class Part(Dataset):
    """Some images of a folder."""

    def __init__(self, folder: ImageFolder, indices: np.ndarray):
        self.folder, self.indices, self.targets = folder, indices, np.asarray(folder.targets)[indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int):
        return self.folder[int(self.indices[index])]


def load(options: DataOptions) -> ImageData:
    """Classes are the names of folders, in alphabetical order.

    Raises:
        UserError: no such folders, or other classes in one split than in another.
    """
    root = Path(options.root).expanduser()
    if not (root / "train").is_dir():
        whole = open_or_explain(ImageFolder, options, LAYOUT)
        rest, test = carve_validation(whole.targets, options.val_fraction, options.split_seed + 1)
        return image_data(Part(whole, rest), Part(whole, test), options, num_classes=len(whole.classes), image_size=IMAGE_SIZE, colors=IMAGENET_COLORS)
    splits = {name: open_or_explain(lambda root, name=name: ImageFolder(root / name), options, LAYOUT) for name in ("train", "test")}
    if (root / "val").is_dir():
        splits["val"] = open_or_explain(lambda root: ImageFolder(root / "val"), options, LAYOUT)
    classes = splits["train"].classes
    for name, split in splits.items():
        if different := sorted(set(classes) ^ set(split.classes)):
            raise UserError(f"{root / name} and {root / 'train'} do not hold the same classes: {different[0]} is in one of them only; give both the same folders")
    return image_data(**splits, options=options, num_classes=len(classes), image_size=IMAGE_SIZE, colors=IMAGENET_COLORS)
