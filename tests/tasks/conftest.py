"""Random images and a tiny network for the tests of collecting and training."""

import pytest
import torch
from torch.utils.data import TensorDataset

from tasks.data.splits import gather_labeled_images
from tasks.networks.build import build_classifier
from tests.tasks.tiny import CHANNELS, CLASSES


@pytest.fixture
def data():
    """Return 40 random images, which serve as training, validation and test images."""
    torch.manual_seed(0)
    images = TensorDataset(torch.randn(40, CHANNELS, 16, 16), torch.randint(CLASSES, (40,)))
    return gather_labeled_images(images, images, images, num_classes=CLASSES, channels=CHANNELS, image_size=16)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build_classifier("test_resnet", num_classes=CLASSES, channels=CHANNELS, image_size=16).eval()
