"""Training states hold a hash of their content, and a changed state is refused."""

from collections import OrderedDict

import pytest
import torch

from core.runtime.errors import UserError
from core.runtime.training_state import TrainingStateIO, hash_state, read_saved_step

STATE = {
    "global_step": 7,
    "state_dict": OrderedDict(weight=torch.arange(50, dtype=torch.float32), step=torch.tensor(7)),
    "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"betas": (0.9, 0.999)}]}],
    "callbacks": {"timer": {"name": "fit", "best": None, "seconds": float("nan")}},
}


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "some.ckpt"
    TrainingStateIO().save_checkpoint(STATE, path)
    return path


def test_a_state_survives_the_disk(saved):
    loaded = TrainingStateIO().load_checkpoint(saved)
    assert loaded.keys() == STATE.keys() and hash_state(loaded) == hash_state(STATE)
    assert torch.equal(loaded["state_dict"]["weight"], STATE["state_dict"]["weight"])
    assert [path.name for path in saved.parent.iterdir()] == ["some.ckpt"]
    assert "sha256" in torch.load(saved, weights_only=True)


def test_a_flipped_bit_in_a_tensor_is_noticed_and_the_fit_starts_at_step_0(saved, caplog):
    """Change a number in a way that torch loads without an error."""
    content = bytearray(saved.read_bytes())
    content[content.index(STATE["state_dict"]["weight"].numpy().tobytes()) + 21] ^= 1
    saved.write_bytes(bytes(content))
    assert torch.load(saved, weights_only=True)["state_dict"]["weight"][5] != 5
    with pytest.raises(UserError, match=r"some\.ckpt is damaged"):
        TrainingStateIO().load_checkpoint(saved)
    assert read_saved_step(saved) is None and str(saved) in caplog.text


def test_a_state_without_a_hash_is_read(saved):
    torch.save(STATE, saved)
    assert read_saved_step(saved) == 7


def test_a_full_disk_keeps_the_old_state(saved, full_disk):
    before = saved.read_bytes()
    with full_disk(), pytest.raises(UserError, match=r"some\.ckpt"):
        TrainingStateIO().save_checkpoint({"state_dict": {"weight": torch.zeros(100_000)}}, saved)
    assert saved.read_bytes() == before and list(saved.parent.iterdir()) == [saved]


@pytest.mark.parametrize(
    "changed",
    [
        {"global_step": 8},
        {"global_step": "7"},
        {"state_dict": OrderedDict(weight=torch.arange(50.0).double(), step=torch.tensor(7))},
        {"optimizer_states": []},
        {"more": None},
    ],
)
def test_the_hash_depends_on_each_value_and_type(changed):
    assert hash_state(STATE | changed) != hash_state(STATE) == hash_state(dict(STATE))
