"""The modules of the stages: the draws of a step, the end of a diverging fit, and the loss of the autoencoder."""

from functools import partial

import pytest
import torch
from pytorch_lightning import Callback
from torch import nn
from torch.optim import SGD, AdamW

from core.checkpoints.normalizer import Normalizer
from core.checkpoints.vector_rows import VectorRows
from core.networks.autoencoder import Autoencoder, ConvAutoencoder
from core.runtime.errors import UserError
from core.runtime.trainer import fit
from core.training.stage_modules import AutoencoderModule, SteppedModule
from tests.core.tiny import cpu_trainer

K = 10
FREEZE = partial(SGD, lr=0.0)  # leaves all weights as they are


def make_module(vectors_KD=None, *, num_steps=30, make_optimizer=FREEZE, batch_size=4, seed=0, **options):
    vectors_KD = torch.arange(K).float()[:, None].repeat(1, 8) if vectors_KD is None else vectors_KD
    autoencoder = ConvAutoencoder(8, channels=(4,), latent_dim=3)
    return AutoencoderModule(
        autoencoder,
        vectors_KD,
        make_optimizer=make_optimizer,
        num_steps=num_steps,
        batch_size=batch_size,
        seed=seed,
        **options,
    )


@pytest.fixture
def run(tmp_path):
    """Return a function that fits a module with further callbacks."""

    def run_fit(module, *extra):
        return fit(
            module,
            name="autoencoder",
            state_dir=tmp_path / "training_state",
            make_trainer=cpu_trainer(*extra),
        )

    return run_fit


def record_batches(module, run, monkeypatch):
    """Fit the module, and return the numbers of the rows that each step drew."""
    drawn, loss = [], module.loss
    monkeypatch.setattr(module, "loss", lambda rows_B: drawn.append(rows_B[:, 0].clone()) or loss(rows_B))
    run(module)
    return drawn


def test_every_batch_holds_different_rows_and_all_rows_are_seen(run, monkeypatch):
    drawn = record_batches(make_module(), run, monkeypatch)
    assert len(drawn) == 30 and all(len(rows.unique()) == len(rows) == 4 for rows in drawn)
    assert set(torch.cat(drawn).tolist()) == set(range(K))
    assert len({tuple(rows.tolist()) for rows in drawn}) > 25


def test_several_shards_give_the_batches_of_one_tensor(tmp_path, run, monkeypatch):
    vectors_KD = torch.arange(K).float()[:, None].repeat(1, 8)
    module = make_module(VectorRows([vectors_KD]))
    assert module.rows_K is vectors_KD, "one shard was copied, or is not moved with the module"
    first = record_batches(module, run, monkeypatch)
    (tmp_path / "training_state/autoencoder.safetensors").unlink()
    in_shards = record_batches(make_module(VectorRows(vectors_KD.split((3, 1, 6)))), run, monkeypatch)
    assert len(first) == 30 and all(torch.equal(*pair) for pair in zip(first, in_shards, strict=True))


def test_a_batch_larger_than_the_data_is_all_of_it(run, monkeypatch):
    drawn = record_batches(make_module(batch_size=50, num_steps=2), run, monkeypatch)
    assert [sorted(rows.tolist()) for rows in drawn] == [list(range(K))] * 2


@pytest.mark.parametrize("seed, same", [(0, True), (1, False)])
def test_the_draws_of_a_step_depend_on_seed_and_step_only(tmp_path, run, monkeypatch, seed, same):
    first = record_batches(make_module(), run, monkeypatch)
    torch.rand(1000)
    (tmp_path / "training_state/autoencoder.safetensors").unlink()
    second = record_batches(make_module(seed=seed), run, monkeypatch)
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True)) == same


class RecordLosses(Callback):
    """A callback that records the loss of every step."""

    def __init__(self):
        self.losses = []

    def on_train_batch_end(self, trainer, module, outputs, *_):
        self.losses.append(outputs["loss"].item())


def test_another_number_of_threads_changes_the_first_losses_by_rounding_only(tmp_path):
    """The vectors are large enough for torch to divide the work among its threads."""

    def train(num_threads, folder):
        torch.set_num_threads(num_threads)
        torch.manual_seed(0)
        vectors_KD, recorded = torch.randn(30, 2048), RecordLosses()
        autoencoder = ConvAutoencoder(2048, channels=(4, 8))
        make_optimizer = partial(AdamW, lr=1e-3)
        module = AutoencoderModule(
            autoencoder, vectors_KD, make_optimizer=make_optimizer, num_steps=3, batch_size=24, seed=0
        )
        fit(module, name="autoencoder", state_dir=tmp_path / folder, make_trainer=cpu_trainer(recorded))
        return recorded.losses, torch.cat([tensor.flatten() for tensor in module.state_dict().values()])

    before = torch.get_num_threads()
    try:
        (one, weights), (again, same), (two, _) = train(1, "one"), train(1, "again"), train(2, "two")
    finally:
        torch.set_num_threads(before)
    assert one == again and torch.equal(weights, same) and len(set(one)) == 3
    assert two == pytest.approx(one, rel=1e-5)


COSINE = (0.05 * (1 + torch.cos(torch.pi * torch.arange(20) / 20))).tolist()


@pytest.mark.parametrize("options, expected", [({}, COSINE), ({"learning_rate_schedule": "constant"}, [0.1] * 20)])
def test_the_learning_rate_falls_to_zero_along_a_cosine_or_stays_constant(run, options, expected):
    rates = []

    class RecordRates(Callback):
        def on_train_batch_start(self, trainer, *_):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    run(make_module(num_steps=20, make_optimizer=partial(SGD, lr=0.1), **options), RecordRates())
    assert rates == pytest.approx(expected, abs=1e-6)


def test_a_loss_that_is_not_finite_stops_the_fit_with_stage_and_step(run):
    with pytest.raises(UserError, match=r"^autoencoder: .*\bnan\b.* step 0\b"):
        run(make_module(torch.full((K, 8), float("nan"))))


# 1 step: the loss is finite, the weights after it are not; more steps: the loss of a later step is not finite
@pytest.mark.parametrize("num_steps, lr", [(1, float("inf")), (7, 1e30), (70, 1e30)])
def test_a_fit_that_diverges_is_not_recorded_as_finished(run, tmp_path, num_steps, lr):
    torch.manual_seed(0)
    with pytest.raises(UserError, match=r"^autoencoder: .*learning rate"):
        run(make_module(torch.randn(K, 8), num_steps=num_steps, make_optimizer=partial(AdamW, lr=lr)))
    assert not (tmp_path / "training_state/autoencoder.safetensors").exists()


def test_weights_that_are_not_finite_at_the_end_are_named():
    module = make_module()
    module.autoencoder.to_latent.bias.data[1] = float("inf")
    with pytest.raises(UserError, match=r"^autoencoder: autoencoder\.to_latent\.bias is not finite .*learning rate"):
        module.on_train_end()


def test_the_rows_are_neither_parameters_nor_saved():
    module = make_module()
    assert isinstance(module, SteppedModule)
    assert not any("rows_K" in name for name in (*module.state_dict(), *dict(module.named_parameters())))


class Shift(Autoencoder):
    """An autoencoder that returns its input plus 2, and records the input."""

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


def test_the_loss_is_the_mean_squared_error_to_the_vector_without_noise(shift_module):
    rows_B = torch.randn(4, 5)
    assert shift_module.loss(rows_B).item() == pytest.approx(4.0)
    assert torch.equal(shift_module.autoencoder.given, rows_B)  # the module leaves the noise to the autoencoder


def test_the_optimizer_gets_the_parameters_of_the_autoencoder(shift_module):
    (group,) = shift_module.configure_optimizers()["optimizer"].param_groups
    assert [id(parameter) for parameter in group["params"]] == [id(shift_module.autoencoder.weight)]


def test_a_normalizer_is_applied_to_each_batch_without_a_copy_of_the_vectors():
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
