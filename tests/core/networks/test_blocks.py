"""The building blocks shared by the networks."""

import math

import pytest
import torch

from core.networks.blocks import conv_block, sinusoidal_embedding, upsampling_block


def test_the_embedding_equals_the_transformers():
    width, t = 8, 37
    expected = [f(t / 10_000 ** (index / 4)) for f in (math.sin, math.cos) for index in range(4)]
    assert sinusoidal_embedding(torch.tensor([t]), width)[0].tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("width", [1, 5, 8])
def test_embeddings_of_any_width_differ_and_do_not_depend_on_the_batch(width):
    t_B = torch.arange(1000)
    embedded = sinusoidal_embedding(t_B, width)
    assert embedded.shape == (1000, width)
    assert len(torch.unique(embedded, dim=0)) == 1000
    torch.testing.assert_close(embedded[[700]], sinusoidal_embedding(torch.tensor([700]), width), rtol=0, atol=0)


@pytest.mark.parametrize("kernel_size", [1, 3, 7])
def test_blocks_keep_halve_or_double_the_length(kernel_size):
    x_BCL = torch.randn(2, 3, 16)
    assert conv_block(3, 5, kernel_size)(x_BCL).shape == (2, 5, 16)
    assert conv_block(3, 5, kernel_size, stride=2)(x_BCL).shape == (2, 5, 8)
    assert upsampling_block(3, 5, kernel_size)(x_BCL).shape == (2, 5, 32)
