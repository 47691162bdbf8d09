"""The stages: each step depends on its number alone, a loss that is no number stops the fit, the target is clean."""

from functools import partial

import pytest
import torch
from pytorch_lightning import Callback
from torch import nn
from torch.optim import SGD, AdamW

from core.checkpoints.normalizer import Normalizer
from core.networks.autoencoder import Autoencoder, ConvAutoencoder
from core.runtime.errors import UserError
from core.runtime.trainer import fit
from core.training.stage_modules import AutoencoderModule, SteppedModule
from tests.core.tiny import cpu_trainer

K = 10
STILL = partial(SGD, lr=0.0)  # moves nothing


def make_module(vectors_KD=None, *, num_steps=30, make_optimizer=STILL, batch_size=4, seed=0):
    vectors_KD = torch.arange(K).float()[:, None].repeat(1, 8) if vectors_KD is None else vectors_KD
    autoencoder = ConvAutoencoder(8, channels=(4,), latent_dim=3)
    return AutoencoderModule(
        autoencoder, vectors_KD, make_optimizer=make_optimizer, num_steps=num_steps, batch_size=batch_size, seed=seed
    )


@pytest.fixture
def run(tmp_path):
    """Fit a module with callbacks of the test's own."""

    def session(module, *extra):
        return fit(
            module,
            name="autoencoder",
            state_dir=tmp_path / "training_state",
            make_trainer=cpu_trainer(*extra),
        )

    return session


def batches_of(module, run, monkeypatch):
    """The rows that each step draws."""
    drawn, loss = [], module.loss
    monkeypatch.setattr(module, "loss", lambda rows_B: drawn.append(rows_B[:, 0].clone()) or loss(rows_B))
    run(module)
    return drawn


def test_every_batch_holds_different_rows_and_all_rows_are_seen(run, monkeypatch):
    drawn = batches_of(make_module(), run, monkeypatch)
    assert len(drawn) == 30 and all(len(rows.unique()) == len(rows) == 4 for rows in drawn)
    assert set(torch.cat(drawn).tolist()) == set(range(K))
    assert len({tuple(rows.tolist()) for rows in drawn}) > 25


def test_a_batch_larger_than_the_data_is_all_of_it(run, monkeypatch):
    drawn = batches_of(make_module(batch_size=50, num_steps=2), run, monkeypatch)
    assert [sorted(rows.tolist()) for rows in drawn] == [list(range(K))] * 2


@pytest.mark.parametrize("seed, same", [(0, True), (1, False)])
def test_a_step_draws_by_seed_and_number_whatever_happened_before(tmp_path, run, monkeypatch, seed, same):
    first = batches_of(make_module(), run, monkeypatch)
    torch.rand(1000)
    (tmp_path / "training_state/autoencoder.safetensors").unlink()
    second = batches_of(make_module(seed=seed), run, monkeypatch)
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True)) == same


def test_the_learning_rate_falls_along_a_cosine_from_the_given_one_to_zero(run):
    rates = []

    class Watch(Callback):
        def on_train_batch_start(self, trainer, *_):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    run(make_module(num_steps=20, make_optimizer=partial(SGD, lr=0.1)), Watch())
    cosine = 0.05 * (1 + torch.cos(torch.pi * torch.arange(20) / 20))
    assert rates == pytest.approx(cosine.tolist(), abs=1e-6)


def test_a_loss_that_is_no_number_at_the_start_stops_with_stage_and_step(run):
    with pytest.raises(UserError, match="autoencoder: the loss is nan at step 0"):
        run(make_module(torch.full((K, 8), float("nan"))))


@pytest.mark.parametrize("num_steps", [7, 70])
def test_weights_that_are_no_numbers_never_count_as_finished(run, tmp_path, num_steps):
    torch.manual_seed(0)
    with pytest.raises(UserError, match=r"autoencoder: .* smaller learning rate"):
        run(make_module(torch.randn(K, 8), num_steps=num_steps, make_optimizer=partial(AdamW, lr=1e30)))
    assert not (tmp_path / "training_state/autoencoder.safetensors").exists()


def test_the_data_is_neither_a_parameter_nor_saved():
    module = make_module()
    assert isinstance(module, SteppedModule)
    assert not any("rows_K" in name for name in (*module.state_dict(), *dict(module.named_parameters())))


class Shift(Autoencoder):
    """Stands for an autoencoder: adds 2 to what it is given and keeps it."""

    def __init__(self):
        super().__init__(num_params=5, latent_dim=5)
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, vectors_BD):
        self.given = vectors_BD
        return self.weight * vectors_BD + 2


@pytest.fixture
def shift_module():
    return AutoencoderModule(
        Shift(), torch.randn(9, 5), make_optimizer=partial(SGD, lr=0.1), num_steps=3, batch_size=4, seed=0
    )


def test_the_loss_is_the_mean_square_distance_to_the_clean_vector(shift_module):
    rows_B = torch.randn(4, 5)
    assert shift_module.loss(rows_B).item() == pytest.approx(4.0)
    assert torch.equal(shift_module.autoencoder.given, rows_B)  # the noise is the autoencoder's own affair


def test_the_optimizer_moves_the_autoencoder(shift_module):
    (group,) = shift_module.configure_optimizers()["optimizer"].param_groups
    assert [id(parameter) for parameter in group["params"]] == [id(shift_module.autoencoder.weight)]


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
