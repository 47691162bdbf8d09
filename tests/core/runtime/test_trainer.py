"""A fit that is interrupted and resumed, or loaded after it finished, gives the result of an unbroken one."""

import json
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from pytorch_lightning import Callback, LightningModule
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import ExponentialLR
from torch.utils.data import DataLoader

from core.diffusion.gaussian_diffusion import NoiseSchedule
from core.networks.autoencoder import ConvAutoencoder
from core.networks.denoiser import ConvDenoiser
from core.runtime.artifacts import save_artifact
from core.runtime.errors import UserError
from core.runtime.trainer import fit, make_trainer, pick_device
from core.training.stage_modules import AutoencoderModule, LatentDiffusionModule
from core.training.weight_average import WeightAverage
from tests.core.tiny import StopAfter, assert_same, cpu_trainer, damaged_copies

STEPS = 23


def autoencoder_stage(steps=STEPS):
    """Return the autoencoder module as a new process builds it, and its callbacks.

    BatchNorm statistics and two noises would reveal a fit that is not resumed exactly.
    """
    torch.manual_seed(1)
    autoencoder, vectors_KD = ConvAutoencoder(20, channels=(4,), latent_dim=5), torch.randn(9, 20)
    return AutoencoderModule(
        autoencoder, vectors_KD, make_optimizer=partial(AdamW, lr=1e-2), num_steps=steps, batch_size=4, seed=0
    ), []


def diffusion_stage(steps=STEPS):
    """Return the diffusion module and the callback that averages its weights."""
    torch.manual_seed(1)
    denoiser, latents_KL = ConvDenoiser(6, channels=(4, 8, 4, 1), kernel_size=3), torch.randn(9, 6)
    module = LatentDiffusionModule(
        denoiser,
        NoiseSchedule(50),
        latents_KL,
        make_optimizer=partial(AdamW, lr=1e-2),
        num_steps=steps,
        batch_size=4,
        seed=0,
    )
    return module, [WeightAverage(0.9)]


class Epochs(LightningModule):
    """A module for fits by epochs, with a validation after each and a learning rate that falls per epoch."""

    stage = "classifier"

    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))

    def train_dataloader(self):
        return DataLoader(torch.linspace(-1, 1, 60).view(20, 3), batch_size=4)

    val_dataloader = train_dataloader

    def training_step(self, batch_BC, batch_idx):
        return (self.model(batch_BC) - 1).square().mean()

    def validation_step(self, batch_BC, batch_idx):
        self.log("val/loss", self.training_step(batch_BC, batch_idx))

    def configure_optimizers(self):
        optimizer = AdamW(self.parameters(), lr=0.1)
        return [optimizer], [ExponentialLR(optimizer, gamma=0.5)]


def epochs_stage():
    torch.manual_seed(1)
    return Epochs(), []


def run_stage(build, folder, *extra, **options):
    """Build the module anew, fit it in one session, and return its state and the seconds."""
    module, callbacks = build()
    seconds = fit(
        module,
        name=module.stage,
        state_dir=folder / "training_state",
        make_trainer=cpu_trainer(*extra),
        callbacks=callbacks,
        **options,
    )
    return module.state_dict(), seconds


@pytest.fixture(scope="module", params=[autoencoder_stage, diffusion_stage], ids=["autoencoder", "diffusion"])
def build(request):
    return request.param


@pytest.fixture(scope="module")
def unbroken(build, tmp_path_factory):
    """Return the state after a fit without interruption."""
    return run_stage(build, tmp_path_factory.mktemp("unbroken"))[0]


def interrupt(build, folder, steps, error=RuntimeError):
    with pytest.raises((error, SystemExit)):
        run_stage(build, folder, StopAfter(steps, error))


# Interruptions before any training state (1), after the state of step 12 (13), before the last step (22), and after
# the last step but before the finished file is written (23).
@pytest.mark.parametrize("steps", [1, 13, STEPS - 1, STEPS])
def test_an_interrupted_stage_equals_an_unbroken_one(build, unbroken, tmp_path, steps):
    interrupt(build, tmp_path, steps)
    assert_same(run_stage(build, tmp_path)[0], unbroken)


def test_a_stage_killed_after_its_last_state_equals_an_unbroken_one(build, tmp_path):
    build = partial(build, steps=20)  # the end of the only epoch comes after the last training state
    with pytest.raises(RuntimeError):
        run_stage(build, tmp_path / "broken", StopAtEpochEnd())
    assert_same(run_stage(build, tmp_path / "broken")[0], run_stage(build, tmp_path / "unbroken")[0])


# An epoch has 5 steps: interruptions in the first epoch, in the third, at the end of the third, and in the fourth.
@pytest.mark.parametrize("steps", [3, 12, 15, 19])
def test_interrupted_epochs_equal_unbroken_ones(tmp_path, steps):
    options = {"max_epochs": 4}
    with pytest.raises(RuntimeError):
        run_stage(epochs_stage, tmp_path / "broken", StopAfter(steps), **options)
    seen = StepsSeen()
    resumed, _ = run_stage(epochs_stage, tmp_path / "broken", seen, **options)
    assert_same(resumed, run_stage(epochs_stage, tmp_path / "unbroken", **options)[0])
    assert seen.steps == list(range((steps - 1) // 5 * 5, 20))


def test_a_stage_interrupted_twice_equals_an_unbroken_one(build, unbroken, tmp_path):
    interrupt(build, tmp_path, 7)
    interrupt(build, tmp_path, 15)
    assert_same(run_stage(build, tmp_path)[0], unbroken)


def test_a_fit_stopped_by_ctrl_c_equals_an_unbroken_one(build, unbroken, tmp_path, keep_signals):
    interrupt(build, tmp_path, 13, KeyboardInterrupt)
    assert_same(run_stage(build, tmp_path)[0], unbroken)


def test_a_resumed_fit_starts_at_its_last_training_state(build, tmp_path):
    interrupt(build, tmp_path, 13)
    seen = StepsSeen()
    run_stage(build, tmp_path, seen)
    assert seen.steps == list(range(12, STEPS))


def test_a_finished_stage_is_loaded_and_not_repeated_and_leaves_one_safe_file(build, unbroken, tmp_path):
    state, seconds = run_stage(build, tmp_path)
    assert [path.name for path in (tmp_path / "training_state").iterdir()] == [f"{build()[0].stage}.safetensors"]
    again, seconds_again = run_stage(build, tmp_path, StopAfter(1))  # raises if it trains
    assert_same(again, state)
    assert seconds_again == seconds > 0


def test_training_moves_every_weight(build, unbroken):
    start = build()[0].state_dict()
    assert not [name for name in unbroken if torch.equal(unbroken[name], start[name])]


@pytest.mark.parametrize("damage", ["empty", "half"])
def test_a_damaged_finished_stage_is_named(tmp_path, damage):
    path = tmp_path / "training_state/autoencoder.safetensors"
    save_artifact(path, "stage", autoencoder_stage()[0].state_dict(), metadata={"seconds": 1.0})
    path.write_bytes(dict(damaged_copies(path))[damage])
    with pytest.raises(UserError, match=r"autoencoder.safetensors is damaged"):
        run_stage(autoencoder_stage, tmp_path)


@pytest.mark.parametrize("damage", ["empty", "half", "other content"])
def test_a_fit_with_a_damaged_training_state_starts_at_step_0(build, unbroken, tmp_path, damage, caplog):
    interrupt(build, tmp_path, 13)
    state = tmp_path / f"training_state/{build()[0].stage}.ckpt"
    state.write_bytes(dict(damaged_copies(state))[damage])
    seen = StepsSeen()
    assert_same(run_stage(build, tmp_path, seen)[0], unbroken)
    assert seen.steps == list(range(STEPS)) and state.name in caplog.text


@pytest.mark.parametrize("option, named", [({"precision": "half"}, "half"), ({"presicion": 32}, "presicion")])
def test_an_option_that_is_invalid_for_lightning_is_named(tmp_path, option, named):
    module, _ = autoencoder_stage()
    with pytest.raises(UserError, match=f"trainer: .*{named}"):
        fit(module, name="autoencoder", state_dir=tmp_path, make_trainer=partial(cpu_trainer(), **option))


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "regular").write_text("in the way")
    with pytest.raises(UserError, match="cannot write to") as error:
        run_stage(autoencoder_stage, tmp_path / "regular")
    assert str(tmp_path / "regular") in str(error.value)


def test_losses_are_kept_as_json_lines_with_stage_and_step(tmp_path):
    run_stage(autoencoder_stage, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [line for line in lines if "autoencoder/loss" in line]
    assert {line["stage"] for line in lines} == {"autoencoder"}
    assert [line["step"] for line in losses] == list(range(STEPS))
    assert losses[-1]["autoencoder/loss"] < losses[0]["autoencoder/loss"]


class Products(Callback):
    """A callback that records whether float32 products use TensorFloat-32 during a fit."""

    def on_train_batch_start(self, *_):
        self.tf32 = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("precision, tf32", [("tf32", True), ("32-true", False), (None, True)])
def test_a_fit_sets_the_precision_of_products_and_restores_it(tmp_path, precision, tf32):
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    products, options = Products(), {"precision": precision} if precision else {}
    module, _ = autoencoder_stage(3)
    make = partial(make_trainer, accelerator="cpu", **options)
    for callbacks, stops in (([products], False), ([products, StopAfter(2)], True)):
        with pytest.raises(RuntimeError) if stops else nullcontext():
            fit(module, name=f"stage_{stops}", state_dir=tmp_path, make_trainer=make, callbacks=callbacks)
        assert products.tf32 == (tf32, tf32)
        assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == before


def test_longer_fits_do_not_read_the_loss_more_often(tmp_path, monkeypatch):
    monkeypatch.setattr("core.runtime.trainer.LOSS_READS_PER_FIT", 5)
    for steps in (10, 40):
        run_stage(partial(autoencoder_stage, steps), tmp_path / str(steps))
        lines = (tmp_path / f"{steps}/metrics.jsonl").read_text().splitlines()
        assert sum("autoencoder/loss" in line for line in lines) == 5


def test_the_cpu_is_used_where_it_is_asked_for():
    assert pick_device("cpu") == torch.device("cpu")


class StopAtEpochEnd(Callback):
    """A callback that raises an error at the end of an epoch, after its last training state."""

    def on_train_epoch_end(self, *_):
        raise RuntimeError("stopped by the test")


class StepsSeen(Callback):
    """A callback that records the numbers of the steps that a fit makes."""

    def __init__(self):
        self.steps = []

    def on_train_batch_end(self, trainer, module, *_):
        self.steps.append(trainer.global_step - 1)
