"""Images for networks that remove noise: digits of 8×8 pixels, and CIFAR-10.

N images · C color channels · S image size in pixels.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import Dataset, Subset, TensorDataset
from torchvision import datasets
from torchvision.transforms import v2

from core.evaluation.scores import Metric
from core.runtime.errors import UserError, suggest_names
from core.runtime.seeding import generator_for
from tasks.data import digits
from tasks.data.digests import Originals, digest_originals, read_labels
from tasks.data.feature_networks import count_features, find_feature_network
from tasks.data.loaders import count_images
from tasks.data.splits import DataOptions, TaskData, TransformedImages, carve_validation
from tasks.data.torchvision_sets import HOW_TO_GET, open_or_explain
from tasks.objectives.generation import Generation, require_enough, stack_planes

NATIVE_DIGITS, NATIVE_CIFAR = 8, 32  # S, in pixels
NUM_CLASSES = 10  # of both datasets
LEAST_TIMESTEPS = 700  # With the linear schedule, an image has 1/1000 of its variance left after as many timesteps.
DIGIT_VISITS = 10  # Validation after each pass over 900 digits would take longer than the pass itself.
SCALE = v2.Normalize([0.5], [0.5])  # from [0, 1] to [−1, 1], where the noise schedule expects images
PREFIX = "task.data.diffusion"


@dataclass(frozen=True)
class DiffusionOptions:
    """The `task.data.diffusion` section.

    Args:
        num_timesteps: The number of timesteps of the noise schedule.
        sampling_steps: The steps in which an image is sampled, a divisor of `num_timesteps`.
        features: A name in `tasks.data.feature_networks.FEATURES`.
    """

    num_timesteps: int = 1000
    sampling_steps: int = 50
    features: str = "classifier"

    @classmethod
    def read(cls, section: Mapping[str, Any]) -> "DiffusionOptions":
        """Return the options of a section.

        Raises:
            UserError: An option is unknown or out of its range.
        """
        known = [field.name for field in fields(cls)]
        if unknown := sorted(section.keys() - set(known)):
            raise UserError(
                f"{PREFIX}.{unknown[0]} is unknown. Set one of the known options ({suggest_names(unknown[0], known)})"
            )
        options = cls(**section)
        for name in ("num_timesteps", "sampling_steps"):
            if type(value := getattr(options, name)) is not int or value < 1:
                raise UserError(f"{PREFIX}.{name}={value} is invalid: expected a whole number of at least 1")
        if options.num_timesteps < LEAST_TIMESTEPS:
            raise UserError(
                f"{PREFIX}.num_timesteps={options.num_timesteps} is invalid: images at the last timestep would be no "
                f"pure noise, from which sampling starts. Set it to at least {LEAST_TIMESTEPS}, such as 1000"
            )
        if options.num_timesteps % options.sampling_steps:
            fitting = [steps for steps in range(1, options.num_timesteps + 1) if options.num_timesteps % steps == 0]
            nearest = sorted(fitting, key=lambda steps: abs(steps - options.sampling_steps))[:2]
            raise UserError(
                f"{PREFIX}.sampling_steps={options.sampling_steps} does not divide {PREFIX}.num_timesteps="
                f"{options.num_timesteps}, so steps would differ in length. Set it to a divisor, such as "
                f"{' or '.join(map(str, sorted(nearest)))}"
            )
        return options


class NoisyImages(Dataset):
    """Items (planes, image), whose planes `tasks.objectives.generation.stack_planes` explains.

    Args:
        images: Images in [−1, 1], with their classes.
        num_timesteps: The number of timesteps of the noise schedule.
        draw: Returns the generator of an item's noise, so that the item is the same at every visit; None draws new
            noise from torch's global generator.
        visits: How often an epoch visits each image, with other noise each time.
    """

    def __init__(
        self,
        images: Dataset,
        num_timesteps: int,
        draw: Callable[[int], torch.Generator] | None = None,
        *,
        visits: int = 1,
    ):
        self.images, self.num_timesteps, self.draw, self.visits = images, num_timesteps, draw, visits
        self.transform = getattr(images, "transform", None)

    def __len__(self) -> int:
        return self.visits * count_images(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image_CSS, _ = self.images[index % count_images(self.images)]
        return stack_planes(image_CSS, self.num_timesteps, self.draw(index) if self.draw else None), image_CSS


def load_digit_images(options: DataOptions) -> TaskData:
    """Return scikit-learn's digits without distortions: 900 for training, 300 for validation and 597 for testing.

    Raises:
        UserError: An option is invalid, or the feature network cannot be stored.
    """
    loaded = load_digits()
    size = options.image_size or NATIVE_DIGITS
    images_N1SS = torch.tensor(loaded.images, dtype=torch.float32)[:, None] / 16
    if size != NATIVE_DIGITS:
        images_N1SS = F.interpolate(images_N1SS, size=(size, size), mode="bilinear", align_corners=False)
    labels_N = torch.tensor(loaded.target)
    train, first_val, held_out = digits.split_off_held_out(labels_N, options.split_seed)
    more_val, test = digits.divide_held_out(held_out, labels_N, options.split_seed)
    indices = {"train": train, "val": torch.cat([first_val, more_val]), "test": test}
    pairs = list(zip(images_N1SS, labels_N.tolist(), strict=True))
    original = TensorDataset(torch.tensor(loaded.images), labels_N)
    return gather_noisy_images(
        {name: TransformedImages(pairs, part.tolist(), SCALE) for name, part in indices.items()},
        Originals({name: Subset(original, part.tolist()) for name, part in indices.items()}),
        options,
        channels=1,
        image_size=size,
        visits=DIGIT_VISITS,
    )


def load_cifar10(options: DataOptions) -> TaskData:
    """Return CIFAR-10; training images are mirrored at random, as by Ho et al. 2020.

    Raises:
        UserError: An option is invalid, or the images or the feature network cannot be loaded.
    """
    train, test = (
        open_or_explain(partial(datasets.CIFAR10, train=is_train, download=True), options, HOW_TO_GET)
        for is_train in (True, False)
    )
    in_train, in_val = carve_validation(read_labels(train), options.val_fraction, options.split_seed)
    size = options.image_size or NATIVE_CIFAR
    resize = [] if size == NATIVE_CIFAR else [v2.Resize((size, size), antialias=True)]
    to_tensor = [*resize, v2.ToImage(), v2.ToPureTensor(), v2.ToDtype(torch.float32, scale=True), SCALE]
    plain, mirrored = v2.Compose(to_tensor), v2.Compose([v2.RandomHorizontalFlip(), *to_tensor])
    return gather_noisy_images(
        {
            "train": TransformedImages(train, in_train, mirrored),
            "val": TransformedImages(train, in_val, plain),
            "test": TransformedImages(test, range(count_images(test)), plain),
        },
        Originals(
            {"train": Subset(train, in_train.tolist()), "val": Subset(train, in_val.tolist()), "test": test},
            Path(options.root).expanduser(),
        ),
        options,
        channels=3,
        image_size=size,
    )


def gather_noisy_images(
    images: Mapping[str, Dataset],
    originals: Originals,
    options: DataOptions,
    *,
    channels: int,
    image_size: int,
    visits: int = 1,
) -> TaskData:
    """Return the data of a task of generation.

    Args:
        images: The images of each split in [−1, 1], with their classes.
        originals: The images before they were prepared.
        options: The `task.data` section.
        channels: C.
        image_size: S.
        visits: How often an epoch of training visits each image.

    Raises:
        UserError: An option is invalid, there are too few images, or the feature network cannot be loaded.
    """
    if options.mean is not None or options.std is not None:
        raise UserError(
            f"task.data.mean={options.mean} and task.data.std={options.std} cannot be set for a task of generation, "
            "whose images always lie in [−1, 1]. Remove both"
        )
    diffusion = DiffusionOptions.read(options.diffusion)
    facts = {"num_classes": NUM_CLASSES, "channels": channels, "image_size": image_size}
    if not count_images(images["train"]):
        raise UserError(f"task.data.dataset={options.dataset} has no training images. Set task.data.root=FOLDER")
    num_features = count_features(diffusion.features)
    for name in ("val", "test"):
        require_enough(count_images(images[name]), num_features, f"the {name} split of {options.dataset}")
    features = find_feature_network(
        diffusion.features,
        images["train"],
        facts,
        folder=Path(options.root).expanduser() / "feature_networks",
        dataset=options.dataset,
        digest=digest_originals(originals)["train"],
        seed=options.split_seed,
    )
    note = (
        f"Fréchet distance between the features of {count_images(images['test'])} test images and those of as many "
        f"samples, which start from the same noise for all models; {num_features} features of {features.label}"
    )
    objective = Generation(
        features.network,
        Metric("FID", unit="", higher_is_better=False, note=note),
        num_timesteps=diffusion.num_timesteps,
        sampling_steps=diffusion.sampling_steps,
        recorded={"features": diffusion.features, "features_hash": features.content_hash},
    )
    train, val, test = (
        NoisyImages(
            images[name],
            diffusion.num_timesteps,
            None if name == "train" else partial(generator_for, options.split_seed, f"noise/{name}"),
            visits=visits if name == "train" else 1,
        )
        for name in ("train", "val", "test")
    )
    return TaskData(train, val, test, objective, facts, originals=originals)
