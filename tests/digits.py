"""The digits images of scikit-learn as normalized tensors."""

import torch

from tasks.data.datasets import load_images
from tasks.data.splits import DataOptions


def normalized_digits(split):
    """Return normalized images (N, C, H, W) and labels (N,) of the split "val" or "test"."""
    data = load_images(DataOptions("digits", root="unused"))
    images, labels = (torch.stack([torch.as_tensor(item[part]) for item in data.split(split)]) for part in (0, 1))
    return data.make_normalizer()(images), labels
