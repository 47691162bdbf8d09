"""The default dataset: 1,797 real handwritten digits that are part of scikit-learn, so nothing is downloaded.

N images · R distorted copies of each image · S = 16 pixels.
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.utils.data import Subset, TensorDataset
from torchvision.transforms import v2

from core.runtime.seeding import derive_seed, generator_for
from tasks.data.digests import Originals
from tasks.data.out_of_distribution import scramble_phases, splice_halves
from tasks.data.splits import DataOptions, TaskData, TransformedImages, gather_labeled_images

# Undistorted images. The remaining 900 are for training. Validation has 100 digits that are split off the training
# images and 200 of the held-out ones, in this order, so that each `split_seed` keeps the training images that it had
# when validation consisted of the first 100 alone.
NUM_HELD_OUT, NUM_FIRST_VAL, NUM_MORE_VAL = 797, 100, 200
COPIES = 3  # R, the number of fixed, distorted copies of each validation and test image
NUM_OOD = 300  # the size of each set of images that belong to no class
IMAGE_SIZE = 16
COLORS = (0.305,), (0.319,)  # mean and std of the enlarged, undistorted training images
HOW_TO_RENEW = (
    "Earlier versions of p-diff validated on 100 digits and tested on 797. They now validate on 300 and test on 597, "
    "while the training images are the same. Set task.param.path=FILE to a new file, and collect or import the "
    "checkpoints again"
)

# The similarity of two models is computed from the images that both get wrong, so models must make errors. With these
# distortions a trained ResNet-18 errs on about one image in twenty.
DISTORTIONS = [
    v2.RandomAffine(
        degrees=20, translate=(0.1, 0.1), scale=(0.8, 1.15), shear=10, interpolation=v2.InterpolationMode.BILINEAR
    ),
    v2.GaussianNoise(sigma=0.15, clip=False),
]


def load(options: DataOptions) -> TaskData:
    """Return train (900 images, distorted anew at every visit), val (300 × 3 images) and test (597 × 3 images).

    The validation and test images are distorted once and stay the same. The copies of one digit are a group. Two sets
    of `NUM_OOD` images belong to no class: test images with scrambled phases, and splices of two test digits.
    """
    digits = load_digits()
    images_N1SS = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    size = options.image_size or IMAGE_SIZE
    images_N1SS = F.interpolate(images_N1SS, size=(size, size), mode="bilinear", align_corners=False)
    labels_N = torch.tensor(digits.target)
    original = TensorDataset(torch.tensor(digits.images), labels_N)

    train, first_val, held_out = split_off_held_out(labels_N, options.split_seed)
    more_val, test = divide_held_out(held_out, labels_N, options.split_seed)
    splits = {"train": train, "val": torch.cat([first_val, more_val]), "test": test}
    groups = {name: splits[name].repeat_interleave(COPIES) for name in ("val", "test")}
    copies_NR1SS = images_N1SS.new_empty(len(images_N1SS), COPIES, 1, size, size)
    for name, part in (("val", first_val), ("test", held_out)):  # a digit that changes its split keeps its copies
        seed = derive_seed(options.split_seed, f"digits/{name}")
        copies_NR1SS[part] = distort(images_N1SS[part], COPIES, seed=seed)
    val_images, test_images = (
        TensorDataset(copies_NR1SS[splits[name]].flatten(0, 1), labels_N[groups[name]]) for name in ("val", "test")
    )
    pairs = list(zip(images_N1SS, labels_N.tolist(), strict=True))
    return gather_labeled_images(
        train=TransformedImages(pairs, train.tolist(), v2.Compose(DISTORTIONS)),
        val=val_images,
        test=test_images,
        num_classes=10,
        channels=1,
        image_size=size,
        colors=options.choose_colors(COLORS),
        originals=Originals({name: Subset(original, part.tolist()) for name, part in splits.items()}),
        groups={name: groups_N.numpy() for name, groups_N in groups.items()},
        ood=make_ood(images_N1SS[test], labels_N[test], copies_NR1SS[test, 0], seed=options.split_seed),
    )


def split_off_held_out(labels_N: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the indices (train, first part of val, held out), each with every class in equal shares."""
    indices = torch.arange(len(labels_N))
    rest, held_out = train_test_split(indices, test_size=NUM_HELD_OUT, stratify=labels_N, random_state=seed)
    train, first_val = train_test_split(rest, test_size=NUM_FIRST_VAL, stratify=labels_N[rest], random_state=seed)
    return train, first_val, held_out


def divide_held_out(held_out: Tensor, labels_N: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Return the held-out indices in two parts (more of val, test)."""
    test, more_val = train_test_split(held_out, test_size=NUM_MORE_VAL, stratify=labels_N[held_out], random_state=seed)
    return more_val, test


def distort(images_N1SS: Tensor, copies: int, *, seed: int) -> Tensor:
    """Return distorted copies (N, R, 1, S, S) of each image; the same seed gives the same copies."""
    transform = v2.Compose(DISTORTIONS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        distorted = [transform(image) for image in images_N1SS.repeat_interleave(copies, dim=0)]
    return torch.stack(distorted).unflatten(0, (-1, copies))


def make_ood(images_N1SS: Tensor, labels_N: Tensor, distorted_N1SS: Tensor, *, seed: int) -> dict[str, TensorDataset]:
    """Return sets of images that belong to no class, each of the label 0.

    Args:
        images_N1SS: The undistorted test images, in random order.
        labels_N: Their classes.
        distorted_N1SS: One distorted copy of each.
        seed: The seed of all random choices.
    """
    scrambled = scramble_phases(distorted_N1SS[:NUM_OOD], generator_for(seed, "digits/phase_scrambled"))
    splices = splice_halves(images_N1SS, labels_N, NUM_OOD, generator_for(seed, "digits/splices"))
    splices = distort(splices, 1, seed=derive_seed(seed, "digits/splices/distortions"))[:, 0]
    return {
        name: TensorDataset(images, torch.zeros(len(images), dtype=torch.long))
        for name, images in (("phase_scrambled", scrambled), ("splices", splices))
    }
