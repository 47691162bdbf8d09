"""The embedded digits as plain tensors, ready for a network."""

import torch

from tasks.data.datasets import load_images
from tasks.data.splits import DataOptions


def normalized_digits(split):
    """Images and labels of "val" or "test"."""
    data = load_images(DataOptions("digits", root="unused"))
    images, labels = (torch.stack([torch.as_tensor(item[part]) for item in data.split(split)]) for part in (0, 1))
    return data.make_normalizer()(images), labels
