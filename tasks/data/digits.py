"""The embedded default: scikit-learn's 1,797 real handwritten digits, no download.

N images · S = 16 pixels.
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.utils.data import TensorDataset
from torchvision.transforms import v2

from core.runtime.seeding import derive_seed
from tasks.data.splits import DataOptions, ImageData, TransformedImages

NUM_TEST, NUM_VAL = 797, 100  # of 1,797 originals; the other 900 train
COPIES = 3  # fixed distorted copies of each validation and test image
IMAGE_SIZE = 16
COLORS = (0.305,), (0.319,)  # mean and std of the enlarged, undistorted training images

# Strong enough that a trained ResNet-18 still errs on about one image in twenty: without errors, the similarity of
# two models (the images that both get wrong) would mean nothing.
DISTORTIONS = [
    v2.RandomAffine(
        degrees=20, translate=(0.1, 0.1), scale=(0.8, 1.15), shear=10, interpolation=v2.InterpolationMode.BILINEAR
    ),
    v2.GaussianNoise(sigma=0.15, clip=False),
]


def load(options: DataOptions) -> ImageData:
    """Return train (900 originals, distorted anew at every visit), val (100 × 3) and test (797 × 3), both fixed."""
    digits = load_digits()
    images_N1SS = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    size = options.image_size or IMAGE_SIZE
    images_N1SS = F.interpolate(images_N1SS, size=(size, size), mode="bilinear", align_corners=False)
    labels_N = torch.tensor(digits.target)

    originals = torch.arange(len(labels_N))
    rest, test = train_test_split(originals, test_size=NUM_TEST, stratify=labels_N, random_state=options.split_seed)
    train, val = train_test_split(rest, test_size=NUM_VAL, stratify=labels_N[rest], random_state=options.split_seed)
    transform = v2.Compose(DISTORTIONS)
    pairs = list(zip(images_N1SS, labels_N.tolist(), strict=True))
    return ImageData(
        train=TransformedImages(pairs, train.tolist(), transform),
        val=distorted_copies(
            images_N1SS[val], labels_N[val], transform, seed=derive_seed(options.split_seed, "digits/val")
        ),
        test=distorted_copies(
            images_N1SS[test], labels_N[test], transform, seed=derive_seed(options.split_seed, "digits/test")
        ),
        num_classes=10,
        channels=1,
        image_size=size,
        colors=options.colors(COLORS),
    )


def distorted_copies(images_N1SS: Tensor, labels_N: Tensor, transform: v2.Compose, *, seed: int) -> TensorDataset:
    """Return `COPIES` distorted versions of each image, the same at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        copies = [transform(image) for image in images_N1SS.repeat_interleave(COPIES, dim=0)]
    return TensorDataset(torch.stack(copies), labels_N.repeat_interleave(COPIES))
