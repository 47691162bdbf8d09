"""Stage one: what is reconstructed, and from what."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import SGD

from core.checkpoints.normalizer import Normalizer
from core.networks.autoencoder import Autoencoder
from core.training.autoencoder_module import AutoencoderModule


class Shift(Autoencoder):
    """Stands for an autoencoder: adds 2 to what it is given and keeps it."""

    def __init__(self):
        super().__init__(num_params=5, latent_dim=5)
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, vectors_BD):
        self.given = vectors_BD
        return self.weight * vectors_BD + 2


@pytest.fixture
def module():
    return AutoencoderModule(
        Shift(), torch.randn(9, 5), make_optimizer=partial(SGD, lr=0.1), num_steps=3, batch_size=4, seed=0
    )


def test_the_loss_is_the_mean_square_distance_to_the_clean_vector(module):
    rows_B = torch.randn(4, 5)
    assert module.loss(rows_B).item() == pytest.approx(4.0)
    assert torch.equal(module.autoencoder.given, rows_B)  # the noise is the autoencoder's own affair


def test_the_optimizer_moves_the_autoencoder(module):
    (group,) = module.configure_optimizers()["optimizer"].param_groups
    assert [id(parameter) for parameter in group["params"]] == [id(module.autoencoder.weight)]


def test_vectors_are_normalized_batch_by_batch_where_a_normalizer_is_given():
    vectors_KD = 3 + 2 * torch.randn(9, 5)
    normalizer = Normalizer.per_coordinate(vectors_KD)
    module = AutoencoderModule(
        Shift(), vectors_KD, normalizer, make_optimizer=partial(SGD, lr=0.1), num_steps=3, batch_size=4, seed=0
    )
    module.loss(vectors_KD[:4])
    torch.testing.assert_close(
        module.autoencoder.given, (vectors_KD[:4] - vectors_KD.mean(0)) / vectors_KD.std(0, correction=0)
    )
    assert module.rows_K is vectors_KD, "the vectors were copied"
