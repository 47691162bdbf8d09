"""The default dataset: 1,797 real handwritten digits that are part of scikit-learn, so nothing is downloaded.

N images · S = 16 pixels.
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.utils.data import Subset, TensorDataset
from torchvision.transforms import v2

from core.runtime.seeding import derive_seed
from tasks.data.digests import Originals
from tasks.data.splits import DataOptions, ImageData, TransformedImages

NUM_TEST, NUM_VAL = 797, 100  # undistorted images; the remaining 900 are for training
COPIES = 3  # the number of fixed, distorted copies of each validation and test image
IMAGE_SIZE = 16
COLORS = (0.305,), (0.319,)  # mean and std of the enlarged, undistorted training images

# The similarity of two models is computed from the images that both get wrong, so models must make errors. With these
# distortions a trained ResNet-18 errs on about one image in twenty.
DISTORTIONS = [
    v2.RandomAffine(
        degrees=20, translate=(0.1, 0.1), scale=(0.8, 1.15), shear=10, interpolation=v2.InterpolationMode.BILINEAR
    ),
    v2.GaussianNoise(sigma=0.15, clip=False),
]


def load(options: DataOptions) -> ImageData:
    """Return train (900 images, distorted anew at every visit), val (100 × 3 images) and test (797 × 3 images).

    The validation and test images are distorted once and stay the same.
    """
    digits = load_digits()
    images_N1SS = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    size = options.image_size or IMAGE_SIZE
    images_N1SS = F.interpolate(images_N1SS, size=(size, size), mode="bilinear", align_corners=False)
    labels_N = torch.tensor(digits.target)
    original = TensorDataset(torch.tensor(digits.images), labels_N)

    indices = torch.arange(len(labels_N))
    rest, test = train_test_split(indices, test_size=NUM_TEST, stratify=labels_N, random_state=options.split_seed)
    train, val = train_test_split(rest, test_size=NUM_VAL, stratify=labels_N[rest], random_state=options.split_seed)
    transform = v2.Compose(DISTORTIONS)
    pairs = list(zip(images_N1SS, labels_N.tolist(), strict=True))
    return ImageData(
        train=TransformedImages(pairs, train.tolist(), transform),
        val=make_distorted_copies(
            images_N1SS[val], labels_N[val], transform, seed=derive_seed(options.split_seed, "digits/val")
        ),
        test=make_distorted_copies(
            images_N1SS[test], labels_N[test], transform, seed=derive_seed(options.split_seed, "digits/test")
        ),
        num_classes=10,
        channels=1,
        image_size=size,
        colors=options.choose_colors(COLORS),
        originals=Originals(
            {"train": Subset(original, train), "val": Subset(original, val), "test": Subset(original, test)}
        ),
    )


def make_distorted_copies(images_N1SS: Tensor, labels_N: Tensor, transform: v2.Compose, *, seed: int) -> TensorDataset:
    """Return `COPIES` distorted versions of each image; the same seed gives the same versions."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        copies = [transform(image) for image in images_N1SS.repeat_interleave(COPIES, dim=0)]
    return TensorDataset(torch.stack(copies), labels_N.repeat_interleave(COPIES))
