"""Stages are numbered, timed and shown: one bar each in a terminal, single lines in a log file."""

import fcntl
import io
import logging
import os
import pickle
import re
import struct
import sys
import termios
from contextlib import contextmanager

import pytest

from core.runtime import progress as console
from core.runtime.progress import LogLines, Stages, TerminalBar, is_terminal
from tests.core.runtime.terminal import Terminal, stderr_as


@pytest.fixture(autouse=True)
def draw_every_state(monkeypatch):
    monkeypatch.setattr(console, "DRAW_SECONDS", 0.0)


@contextmanager
def console_logging(stream):
    """Set up logging as Hydra does, with one handler on the root."""
    root, handler = logging.getLogger(), logging.StreamHandler(stream)
    before, level = root.handlers, root.level
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    try:
        yield root
    finally:
        root.handlers = before
        root.setLevel(level)


def test_stages_are_numbered_named_and_timed():
    stages = Stages(["train_task", "collect"])
    with stages.stage("train_task") as progress:
        assert progress.label == "[1/2] train task" and stages.progress is progress
    with stages.stage("collect") as progress:
        assert progress.label == "[2/2] collect"
        assert list(stages.seconds) == ["train_task"]
    assert list(stages.seconds) == ["train_task", "collect"] and min(stages.seconds.values()) >= 0


@pytest.mark.parametrize("stop", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_stage_that_stopped_has_no_time(stop):
    stages = Stages(["score"])
    with pytest.raises(stop), stages.stage("score"):
        raise stop
    assert stages.seconds == {}


def test_a_log_file_gets_a_line_at_the_start_and_at_the_end_of_a_stage():
    with stderr_as(io.StringIO()) as log_file:
        stages = Stages(["diffusion", "report"])
        with stages.stage("diffusion", "2000 steps") as progress, progress.part(units=2000):
            for _ in range(2000):
                progress.measure(loss=1.0)
                progress.advance()
            progress.loss = 0.0005
        with stages.stage("report"):
            pass
        first, done, *report = log_file.getvalue().splitlines()
        assert first == "[1/2] diffusion: 2000 steps"
        assert re.fullmatch(r"\[1/2\] diffusion: done in \d\.\d s, loss 0\.000500", done)
        assert [line.partition(":")[0] for line in report] == ["[2/2] report"] * 2
        assert "\r" not in log_file.getvalue()


def test_a_log_file_gets_lines_in_between_after_some_time_and_some_work(monkeypatch):
    with stderr_as(io.StringIO()) as log_file:
        monkeypatch.setattr(console, "LINE_SECONDS", 0)
        progress = LogLines("[1/1] score", "")
        for _ in progress.track(["original", "p_diff"], name=str):
            for _ in progress.track(range(500)):
                pass
        lines = log_file.getvalue().splitlines()[1:]
        assert 50 <= len(lines) < 100  # at most one for each percent
        assert "p_diff" in lines[-1] and all(re.search(r"\d+ %.* elapsed", line) for line in lines)
        assert re.search(r"original, \d+ %, .* elapsed, .* left", lines[20])


def test_a_long_silence_ends_with_a_line(monkeypatch):
    with stderr_as(io.StringIO()) as log_file:
        monkeypatch.setattr(console, "SILENCE_SECONDS", 0)
        progress = LogLines("[1/1] train task")
        with progress.part(units=1e6, by_epochs=True):
            progress.advance()
        assert re.search(r"train task: 0 %, .* elapsed", log_file.getvalue().splitlines()[1])


@pytest.mark.parametrize("num_epochs, num_lines", [(1, 1), (20, 20), (50, 50), (60, 30), (101, 34), (1000, 50)])
def test_very_many_epochs_share_their_lines(num_epochs, num_lines):
    with stderr_as(io.StringIO()) as log_file:
        progress = LogLines("[1/2] train task")
        with progress.part(units=num_epochs * 3, by_epochs=True):
            for epoch in range(num_epochs):
                progress.show(f"epoch {epoch + 1}/{num_epochs}")
                for _ in range(3):
                    progress.advance()
                progress.end_epoch()
        lines = log_file.getvalue().splitlines()[1:]
        assert len(lines) == num_lines and f"epoch {num_epochs}/{num_epochs}" in lines[-1]
        assert "left" not in lines[-1] and all(" left" in line for line in lines[:-1])


def test_a_stopped_stage_says_where():
    with stderr_as(io.StringIO()) as log_file:
        with pytest.raises(KeyboardInterrupt), Stages(["score"]).stage("score") as progress:
            progress.advance(0.34)
            raise KeyboardInterrupt
        assert re.fullmatch(r"\[1/1\] score: stopped at 34 % after \d\.\d s", log_file.getvalue().splitlines()[-1])


def test_a_terminal_shows_one_bar_for_a_stage_and_leaves_one_line():
    with stderr_as(Terminal()) as terminal:
        stages = Stages(["score", "report"])
        with stages.stage("score", "2 sources") as progress:
            for _ in progress.track(["original", "average_16"], name=str):
                with progress.part(units=10):
                    for _ in range(10):
                        progress.advance()
                        assert len(terminal.screen) == 1 and terminal.screen[0].startswith("[1/2] score")
        assert terminal.states[0] == "[1/2] score: 2 sources"
        shares = [int(found[1]) for state in terminal.states if (found := re.search(r"(\d+) %\|", state))]
        assert shares == sorted(shares) and shares[-1] == 100 and len(set(shares)) >= 20
        assert re.search(r"\[1/2\] score +75 %\|.*\| average_16, .* left", terminal.getvalue())
        with stages.stage("report"):
            assert terminal.screen[-1] == "[2/2] report"
        assert [re.sub(r"[\d.]+ s", "0 s", line) for line in terminal.screen] == [
            "[1/2] score: done in 0 s", "[2/2] report: done in 0 s", "",
        ]  # fmt: skip


@pytest.mark.parametrize("stop", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_nothing_is_drawn_after_a_stage_was_stopped(stop):
    with stderr_as(Terminal()) as terminal:
        with pytest.raises(stop), Stages(["score"]).stage("score") as progress, progress.part(units=4):
            progress.advance()
            raise stop
        sys.stderr.write("error: sentence\n")
        progress.advance()
        progress.show("later")
        progress.close()
        assert re.fullmatch(r"\[1/1\] score: stopped at 25 % after \d\.\d s", terminal.screen[0])
        assert terminal.screen[1:] == ["error: sentence", ""]


def test_log_lines_appear_above_the_bar():
    with stderr_as(Terminal()) as terminal:
        with console_logging(terminal) as root, Stages(["score"]).stage("score") as progress:
            handlers = root.handlers
            progress.advance(0.5)
            root.info("256 MB cached")
            assert terminal.screen[0] == "256 MB cached" and terminal.screen[1].startswith("[1/1] score  50 %")
            progress.close()
            root.info("after the stage")
            assert root.handlers != handlers and len(root.handlers) == 1
        assert terminal.screen[-2:] == ["after the stage", ""] and len(terminal.screen) == 4


def test_a_process_of_ddp_draws_a_bar_of_its_own_and_removes_it():
    with stderr_as(Terminal()) as terminal:
        progress = TerminalBar("[1/2] train task", "3 epochs")
        progress.advance(0.25)
        copy = pickle.loads(pickle.dumps(progress))
        assert copy.is_copy and not progress.is_copy
        copy.advance(0.25)
        assert terminal.screen[-1].startswith("[1/2] train task  50 %")
        copy.clear()
        assert terminal.screen == [""]
        progress.close()
        assert terminal.screen[0].startswith("[1/2] train task: done in")


@pytest.mark.parametrize("rows, columns, expected", [(40, 120, True), (0, 0, False), (0, 120, False)])
def test_a_pseudo_terminal_without_a_size_is_treated_as_a_log_file(rows, columns, expected):
    owner, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    with os.fdopen(owner, "rb"), os.fdopen(terminal, "w") as stream, stderr_as(stream):
        assert is_terminal() == expected
