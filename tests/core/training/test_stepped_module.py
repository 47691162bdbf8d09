"""What both stages share: each step depends on its number alone, and a loss that is no number stops the fit."""

from functools import partial

import pytest
import torch
from pytorch_lightning import Callback
from torch.optim import SGD, AdamW

from core.networks.autoencoder import ConvAutoencoder
from core.runtime.errors import UserError
from core.runtime.trainer import fit
from core.training.autoencoder_module import AutoencoderModule
from core.training.stepped_module import SteppedModule
from tests.core.tiny import cpu_trainer

K = 10


def make_module(vectors_KD=None, *, num_steps=30, make_optimizer=partial(SGD, lr=0.0), batch_size=4, seed=0):
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
            label="",
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
    assert all(torch.equal(*pair) for pair in zip(first, second)) == same


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
    with pytest.raises(UserError, match="autoencoder: .* smaller learning rate"):
        run(make_module(torch.randn(K, 8), num_steps=num_steps, make_optimizer=partial(AdamW, lr=1e30)))
    assert not (tmp_path / "training_state/autoencoder.safetensors").exists()


@pytest.mark.parametrize("options", [{"num_steps": 0}, {"batch_size": 1}])
def test_impossible_options_are_refused_with_their_values(options):
    ((name, value),) = options.items()
    with pytest.raises(UserError, match=f"autoencoder: .*{name}={value}"):
        make_module(**options)


def test_the_data_is_neither_a_parameter_nor_saved():
    module = make_module()
    assert isinstance(module, SteppedModule)
    assert not any("rows_K" in name for name in (*module.state_dict(), *dict(module.named_parameters())))
