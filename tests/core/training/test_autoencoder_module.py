"""Stage one: what is reconstructed, and from what."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import SGD

from core.training.autoencoder_module import AutoencoderModule


class Shift(nn.Module):
    """Stands for an autoencoder: adds 2 to what it is given and keeps it."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, vectors_BD):
        self.given = vectors_BD
        return self.weight * vectors_BD + 2


@pytest.fixture
def module():
    return AutoencoderModule(Shift(), torch.randn(9, 5), make_optimizer=partial(SGD, lr=0.1), num_steps=3, batch_size=4, seed=0)


def test_the_loss_is_the_mean_square_distance_to_the_clean_vector(module):
    rows_B = torch.randn(4, 5)
    assert module.loss(rows_B).item() == pytest.approx(4.0)
    assert torch.equal(module.autoencoder.given, rows_B)  # the noise is the autoencoder's own affair


def test_the_optimizer_moves_the_autoencoder(module):
    (group,) = module.configure_optimizers()["optimizer"].param_groups
    assert [id(parameter) for parameter in group["params"]] == [id(module.autoencoder.weight)]
