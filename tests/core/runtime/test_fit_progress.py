"""A fit shows its epochs or steps in the progress of its stage, also when it is resumed or fails."""

import io
import re
from functools import partial

import pytest
import torch
from pytorch_lightning import Callback
from torch import nn
from torch.optim import SGD
from torch.utils.data import DataLoader

from core.runtime import progress as console
from core.runtime.progress import Stages
from core.runtime.reporting_module import ReportingModule
from core.runtime.trainer import fit
from tests.core.runtime.terminal import Terminal, stderr_as
from tests.core.tiny import StopAfter, cpu_trainer

EPOCHS, STEPS = 4, 5  # STEPS in each epoch


class Fitted(ReportingModule):
    """A module that reports its loss as the modules of the project do."""

    def __init__(self):
        super().__init__()
        self.model = nn.Linear(3, 1)

    def train_dataloader(self):
        return DataLoader(torch.linspace(-1, 1, 60).view(20, 3), batch_size=20 // STEPS)

    val_dataloader = train_dataloader

    def training_step(self, batch_BC, batch_idx):
        loss = (self.model(batch_BC) - 1).square().mean()
        self.report("classifier/loss", loss)
        return loss

    def validation_step(self, batch_BC, batch_idx):
        self.log("val/accuracy", torch.tensor(0.75), prog_bar=True)

    def configure_optimizers(self):
        return SGD(self.parameters(), lr=0.01)


def run_stage(folder, *extra, callbacks=(), max_epochs=EPOCHS, stages=None):
    """Fit in a stage as the entry points do."""
    stages = stages or Stages(["train_task", "collect"])
    with stages.stage("train_task", f"{max_epochs} epochs") as progress:
        fit(
            Fitted(),
            name="classifier",
            state_dir=folder / "state",
            make_trainer=cpu_trainer(*extra),
            progress=progress,
            callbacks=callbacks,
            max_epochs=max_epochs,
        )


def lines_of(folder, *extra, stops=False, **options):
    """Return the lines that a log file gets from one session."""
    with stderr_as(io.StringIO()) as stream:
        if stops:
            with pytest.raises((RuntimeError, SystemExit)):
                run_stage(folder, *extra, **options)
        else:
            run_stage(folder, *extra, **options)
    assert "\r" not in stream.getvalue()
    return [re.sub(r"[\d.]+ s\b", "0 s", line) for line in stream.getvalue().splitlines()]


def test_a_fit_by_epochs_writes_a_line_for_each(tmp_path):
    lines = lines_of(tmp_path)
    assert lines[0] == "[1/2] train task: 4 epochs" and len(lines) == EPOCHS + 2
    for epoch, line in enumerate(lines[1:-2], start=1):
        state = rf"epoch {epoch}/4, loss [\d.]+, val/accuracy 0\.750, 0 s elapsed, 0 s left"
        assert re.fullmatch(rf"\[1/2\] train task: {state}", line)
    assert "epoch 4/4" in lines[-2] and "left" not in lines[-2]
    assert re.fullmatch(r"\[1/2\] train task: done in 0 s, loss [\d.]+", lines[-1])


def test_a_fit_by_steps_writes_its_start_and_its_end(tmp_path):
    lines = lines_of(tmp_path, max_epochs=None)
    assert len(lines) == 2 and re.search(r"done in 0 s, loss [\d.]+", lines[-1])


def test_a_resumed_fit_names_the_epochs_that_are_left(tmp_path, caplog):
    stopped = lines_of(tmp_path, StopAfter(2 * STEPS + 3), stops=True)
    assert stopped[-1] == "[1/2] train task: stopped at 60 % after 0 s" and "epoch 2/4" in stopped[-2]
    with caplog.at_level("INFO"):
        resumed = lines_of(tmp_path)
    assert f"from step {2 * STEPS}" in caplog.text
    assert [re.search(r"epoch \d/4", line)[0] for line in resumed[1:-1]] == ["epoch 3/4", "epoch 4/4"]
    again = lines_of(tmp_path)
    assert len(again) == 2 and "done in" in again[-1]


class RecordShare(Callback):
    """A callback that records how much of the stage is done after each step, and the estimate of the time left."""

    def __init__(self, stages):
        self.stages, self.shares, self.left = stages, [], []

    def on_train_batch_end(self, *_):
        self.shares.append(self.stages.progress.share)
        self.left.append(self.stages.progress.seconds_left)


@pytest.mark.parametrize("max_epochs", [None, EPOCHS])
def test_the_share_of_a_resumed_fit_counts_all_its_steps(tmp_path, max_epochs):
    total = (max_epochs or 1) * STEPS
    lines_of(tmp_path, StopAfter(total - 1), stops=True, max_epochs=max_epochs)
    stages = Stages(["train_task"])
    record = RecordShare(stages)
    lines_of(tmp_path, stages=stages, callbacks=[record], max_epochs=max_epochs)
    assert record.shares == pytest.approx([step / total for step in range(total - len(record.shares) + 1, total + 1)])
    assert record.left[0] is None  # an earlier session gives no rate


def test_several_fits_share_the_bar_of_their_stage(tmp_path, monkeypatch):
    monkeypatch.setattr(console, "DRAW_SECONDS", 0.0)
    with stderr_as(Terminal()) as terminal:
        stages = Stages(["train_task"])
        with stages.stage("train_task", "2 networks") as progress:
            for index in progress.track(range(2), name="network {}".format):
                fit(
                    Fitted(),
                    name=f"classifier_{index}",
                    state_dir=tmp_path,
                    make_trainer=cpu_trainer(),
                    progress=progress,
                    max_epochs=EPOCHS,
                )
                assert len(terminal.screen) == 1
    drawn = [state for state in terminal.states if "%|" in state]
    shares = [int(re.search(r"(\d+) %\|", state)[1]) for state in drawn]
    assert shares == sorted(shares) and shares[-1] == 100
    assert any(re.search(r"75 %\|.*\| network 1, epoch 2/4, loss .* left", state) for state in drawn)
    assert len(terminal.screen) == 2 and "done in" in terminal.screen[0] and terminal.screen[1] == ""


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_fit_that_stops_leaves_one_line_in_a_terminal(tmp_path, monkeypatch, error, keep_signals):
    monkeypatch.setattr(console, "DRAW_SECONDS", 0.0)
    with stderr_as(Terminal()) as terminal, pytest.raises((RuntimeError, SystemExit)):
        run_stage(tmp_path, StopAfter(STEPS, error))
    assert len(terminal.screen) == 2 and "stopped at" in terminal.screen[0] and terminal.screen[1] == ""


def test_without_progress_a_fit_shows_nothing(tmp_path):
    with stderr_as(Terminal()) as terminal:
        fit(Fitted(), name="quiet", state_dir=tmp_path, make_trainer=partial(cpu_trainer()), max_epochs=2)
    assert terminal.getvalue() == ""
