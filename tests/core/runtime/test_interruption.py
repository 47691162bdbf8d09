"""Signals end a command with status 128 + n and no traceback, and a training saves the step that it has reached."""

import os
import signal
from datetime import timedelta

import pytest
from pytorch_lightning import Callback

from core.command_line.run_command import exit_on_mistake
from core.runtime import trainer
from core.runtime.interruption import SIGNALS, Interrupted, defer_signals, end_on_signals, get_deferred_signal
from core.runtime.training_state import read_saved_step
from tests.core.runtime.test_trainer import STEPS, autoencoder_stage, diffusion_stage, epochs_stage, run_stage
from tests.core.tiny import assert_same

NUMBERED = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 138)]


def send(number: int) -> None:
    os.kill(os.getpid(), number)


class SendAfter(Callback):
    """A callback that sends a signal to this process after some optimizer steps."""

    def __init__(self, steps, number):
        self.steps, self.number = steps, number

    def on_train_batch_end(self, trainer, module, *_):
        if trainer.global_step == self.steps:
            send(self.number)


@pytest.mark.parametrize("number, status", NUMBERED)
def test_a_signal_ends_a_command_with_its_status_and_one_last_line(number, status, capsys):
    before = [signal.getsignal(known) for known in SIGNALS]
    with pytest.raises(SystemExit) as stop, exit_on_mistake():
        send(number)
        pytest.fail("the command went on after a signal")
    assert stop.value.code == status
    shown = capsys.readouterr().err
    assert shown.strip().splitlines() == [
        f"Interrupted by {number.name}. Run the same command again to resume from the last saved state."
    ]
    assert [signal.getsignal(known) for known in SIGNALS] == before


@pytest.mark.parametrize("build", [autoencoder_stage, diffusion_stage])
@pytest.mark.parametrize("number", SIGNALS)
def test_a_training_saves_the_step_in_which_a_signal_arrives_and_resumes_there(build, number, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "SAVE_EVERY", timedelta(hours=1))
    with pytest.raises(Interrupted) as stop, end_on_signals():
        run_stage(build, tmp_path / "broken", SendAfter(13, number))
    assert stop.value.code == 128 + number
    assert read_saved_step(tmp_path / f"broken/training_state/{build()[0].stage}.ckpt") == 13
    assert_same(run_stage(build, tmp_path / "broken")[0], run_stage(build, tmp_path / "unbroken")[0])


def test_a_signal_after_the_last_step_ends_the_command_after_the_fit(tmp_path):
    with pytest.raises(Interrupted), end_on_signals():
        run_stage(autoencoder_stage, tmp_path / "broken", SendAfter(STEPS, signal.SIGTERM))
    assert_same(run_stage(autoencoder_stage, tmp_path / "broken")[0], run_stage(autoencoder_stage, tmp_path)[0])


def test_a_training_by_epochs_ends_at_once_and_keeps_the_state_of_its_last_epoch(tmp_path):
    with pytest.raises(Interrupted), end_on_signals():
        run_stage(epochs_stage, tmp_path / "broken", SendAfter(12, signal.SIGTERM), max_epochs=4)
    assert read_saved_step(tmp_path / "broken/training_state/classifier.ckpt") == 10
    assert_same(
        run_stage(epochs_stage, tmp_path / "broken", max_epochs=4)[0],
        run_stage(epochs_stage, tmp_path, max_epochs=4)[0],
    )


def test_a_second_signal_does_not_wait_for_the_step():
    with pytest.raises(Interrupted) as stop, end_on_signals(), defer_signals():
        send(signal.SIGTERM)
        assert get_deferred_signal() == signal.SIGTERM
        send(signal.SIGINT)
        pytest.fail("the second signal was deferred, too")
    assert stop.value.code == 130 and get_deferred_signal() is None


def test_a_signal_that_the_process_was_told_to_ignore_stays_ignored():
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with end_on_signals():
            send(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, handler)


def test_what_a_signal_makes_a_library_fail_with_is_the_signal(capsys):
    with pytest.raises(SystemExit) as stop, exit_on_mistake():
        try:
            send(signal.SIGTERM)
        finally:
            raise RuntimeError("the library fails while it ends")
    assert stop.value.code == 143 and "Traceback" not in capsys.readouterr().err
