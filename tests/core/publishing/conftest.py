"""A fixture that the tests of this folder share."""

import pytest
import torch

from core.checkpoints.checkpoint_set import CheckpointSet
from core.publishing.generated_models import GeneratedModels


@pytest.fixture
def tiny_models(tiny_checkpoints: CheckpointSet) -> GeneratedModels:
    """Return three models over the network of the tiny checkpoints."""
    return GeneratedModels(
        vectors_MD=torch.randn(3, 60),
        subset=tiny_checkpoints.subset,
        network=tiny_checkpoints.network,
        seed=7,
        generator="0123456789abcdef",
    )
