"""A training whose loss or weights are not finite stops with its stage and step, and its last state stays usable."""

from datetime import timedelta

import pytest
import torch
from pytorch_lightning import Callback

from core.runtime import trainer
from core.runtime.errors import UserError
from core.runtime.training_state import read_saved_step
from tests.core.runtime.test_trainer import autoencoder_stage, run_stage
from tests.core.tiny import assert_same


class Poison(Callback):
    """A callback that makes one weight infinite after some steps, as a diverging training does."""

    def __init__(self, steps):
        self.steps = steps

    def on_train_batch_end(self, trainer, module, *_):
        if trainer.global_step == self.steps:
            module.autoencoder.to_latent.bias.data[0] = torch.inf


def test_diverged_weights_never_replace_the_last_good_state(tmp_path):
    state = tmp_path / "broken/training_state/autoencoder.ckpt"
    expected = (
        rf"^autoencoder: autoencoder\.to_latent\.bias is not finite at step 13\. The state of step 12, in {state},"
    )
    with pytest.raises(UserError, match=rf"{expected} is intact\. Set a smaller learning rate"):
        run_stage(autoencoder_stage, tmp_path / "broken", Poison(13))
    assert read_saved_step(state) == 12
    assert_same(run_stage(autoencoder_stage, tmp_path / "broken")[0], run_stage(autoencoder_stage, tmp_path)[0])


def test_a_loss_that_is_not_finite_is_named_with_its_step_when_no_state_was_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "SAVE_EVERY", timedelta(hours=1))
    with pytest.raises(UserError, match=r"^autoencoder: the loss is nan at step 13\. No earlier state was saved\. Set"):
        run_stage(autoencoder_stage, tmp_path, Poison(13))
    assert not list((tmp_path / "training_state").iterdir())
