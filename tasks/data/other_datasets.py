"""Test images of other datasets, named by `evaluation.ood`, which belong to no class of the task.

C color channels · S image size in pixels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from core.runtime.errors import UserError, suggest_names
from core.runtime.seeding import generator_for
from tasks.data.datasets import DATASETS, load_images
from tasks.data.loaders import count_images
from tasks.data.splits import (
    ColorNormalizer,
    DataOptions,
    ImagesWithoutClass,
    TaskData,
    find_normalization,
    require_equal_shapes,
)
from tasks.objectives.classification import Classification

MOST_IMAGES = 2_000  # of one dataset
FOLDER_DATASET = "imagefolder"  # its root holds folders of classes, so no other dataset may be downloaded into it
DEFAULT_ROOT = "data"  # the default of task.data.root


def add_other_datasets(data: TaskData, options: DataOptions, entries: Sequence[str] | str) -> TaskData:
    """Return the images of a task with the test images of other datasets added to `ood`.

    A dataset gives at most `MOST_IMAGES` images, a fixed sample. They get the channels, the size and the normalization
    of the task's images.

    Args:
        data: The images of the task.
        options: The `task.data` section of the task.
        entries: `evaluation.ood`, a list of NAME or NAME:FOLDER, or a single one of them.

    Raises:
        UserError: A dataset is unknown, named twice, the task's own or not on disk, or it cannot be brought to the form
            of the task's images.
    """
    if not entries:
        return data
    if not isinstance(data.objective, Classification):
        raise UserError(
            f"evaluation.ood={entries} needs a task with classes, but networks of this task do not predict a class. "
            "Set evaluation.ood=[]"
        )
    ood = dict(data.ood)
    for name, root in read_entries(entries, options):
        if name in ood:
            raise UserError(f"evaluation.ood={name}: a set of this name already exists. Name each set once")
        ood[name] = open_test_images(replace(options, dataset=name, root=root), data)
    return replace(data, ood=ood)


def read_entries(entries: Sequence[str] | str, options: DataOptions) -> Iterator[tuple[str, str]]:
    """Yield the name and the folder of each dataset of `evaluation.ood`.

    A dataset without a folder of its own is in `task.data.root`, like the task's images. If that is a folder of the
    user's own images, the dataset is in `DEFAULT_ROOT`.

    Raises:
        UserError: An entry is not a known name, its folder is missing, or it is the dataset of the task.
    """
    for entry in entries if isinstance(entries, (list, tuple)) else [entries]:
        name, _, folder = str(entry).partition(":")
        if name not in DATASETS:
            raise UserError(
                f"evaluation.ood={entry} is unknown. Set evaluation.ood=[NAME] to known datasets "
                f"({suggest_names(name, DATASETS)})"
            )
        if name == FOLDER_DATASET and not folder:
            raise UserError(
                f"evaluation.ood={entry} needs the folder of its images. Set evaluation.ood=[{entry}:FOLDER]"
            )
        root = folder or (DEFAULT_ROOT if options.dataset == FOLDER_DATASET else options.root)
        is_elsewhere = Path(root).expanduser().resolve() != Path(options.root).expanduser().resolve()
        if name == options.dataset and not (name == FOLDER_DATASET and is_elsewhere):
            raise UserError(
                f"evaluation.ood={entry} is the dataset of the task, whose images belong to its classes. "
                "Set evaluation.ood=[NAME] to another dataset"
            )
        yield name, root


def open_test_images(options: DataOptions, data: TaskData) -> ImagesWithoutClass:
    """Return test images of another dataset in the form of the task's images.

    Args:
        options: The name and the folder of the other dataset; its own size and normalization are not used.
        data: The images of the task.

    Raises:
        UserError: The images are missing or damaged, the task's images have an unknown normalization, or they are not
            square.
    """
    source, normalize = f"evaluation.ood={options.dataset}", v2.Identity()
    if data.colors is None:  # the user's own images come normalized
        if (colors := find_normalization(data.train)) is None:
            raise UserError(
                f"{source} needs the normalization of the task's images, but the training images have no v2.Normalize "
                'in their transform. Remove it, and return the images as "ood" from the function of task.score_with'
            )
        normalize = ColorNormalizer(colors)
    try:
        other = load_images(replace(options, image_size=data.facts["image_size"], mean=None, std=None, weights=None))
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    if not isinstance(other.objective, Classification):
        raise UserError(f"{source} has no images with classes. Set evaluation.ood=[NAME] to a dataset with classes")
    test = other.test
    generator = generator_for(options.split_seed, f"ood/{options.dataset}")
    sample = torch.randperm(count_images(test), generator=generator)[:MOST_IMAGES].sort().values.tolist()
    images = ImagesWithoutClass(
        test, sample, partial(bring_to_form, channels=data.facts["channels"], normalize=normalize)
    )
    require_equal_shapes(images, data.val, source)
    return images


def bring_to_form(image_CSS: Tensor, *, channels: int, normalize: nn.Module) -> Tensor:
    """Return a normalized image with this number of channels; a change of channels makes it gray."""
    if len(image_CSS) != channels:
        image_CSS = v2.functional.rgb_to_grayscale(image_CSS).repeat(channels, 1, 1)
    return normalize(image_CSS)
