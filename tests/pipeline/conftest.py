"""Fixtures that run the real entry points in this process, on a network that trains in seconds."""

import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

import task_training
import train_p_diff
from core.runtime.artifacts import read_json
from tests.pipeline import shortcuts

TINY = [
    "trainer=cpu",
    "task.model.name=test_resnet",
    "task.epochs=1",
    "task.param.k=6",
    "task.collect.held_out=2",
    "system.autoencoder_steps=6",
    "system.diffusion_steps=6",
    "generation.num_models=5",
    "evaluation.num_baselines=3",
    "evaluation.num_finetuned=2",
    "evaluation.finetune_steps=[2,3]",
]
ENTRY_POINTS = {"task_training.py": task_training.main, "train_p_diff.py": train_p_diff.main}


@dataclass
class Outcome:
    """The exit of a command: a status, or the text that Python prints on stderr before it exits with 1."""

    error: str | int


def assert_one_line(error: str | int | None) -> str:
    """Return the error of a command that ended with exactly one line on stderr, which is no traceback."""
    assert isinstance(error, str) and error.strip() and "\n" not in error and "Traceback" not in error, error
    return error


def assert_names(error: str, *words: object) -> None:
    """Check that each name, value and number occurs in an error as a whole word; the prose around it is free."""
    for word in map(str, words):
        start = r"(?<![\w-])" if word[0].isalnum() else ""  # rules out parts of names, such as 6 in pytest-6
        end = r"\b" if word[-1].isalnum() else ""
        assert re.search(start + re.escape(word) + end, error), f"{word!r} is missing in: {error}"


class Workplace:
    """A folder in which commands are run as a user would run them."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch):
        self.path, self.monkeypatch = path, monkeypatch

    def run(self, script: str, *overrides: str, tiny: bool = True) -> Outcome:
        """Run `python <script> <overrides>`; of two overrides of one setting the later wins."""
        chosen = {override.split("=")[0]: override for override in [*(TINY if tiny else []), *overrides]}
        options_first = sorted(chosen.values(), key=lambda word: not word.startswith("-"))
        self.monkeypatch.setattr(sys, "argv", [script, *options_first])
        self.monkeypatch.chdir(self.path)
        try:
            ENTRY_POINTS[script]()
        except SystemExit as exit_:
            return Outcome(exit_.code or 0)
        return Outcome(0)

    def refuse(self, script: str, *overrides: str, tiny: bool = True) -> str:
        """Run a command that must end with one line on stderr; return the line."""
        return assert_one_line(self.run(script, *overrides, tiny=tiny).error)

    def metrics(self, run: str = "outputs/digits_test_resnet/ae_ddpm") -> dict:
        """Return the content of a run's metrics.json."""
        return read_json(self.path / run / "metrics.json")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make one tiny run for all workers, without the shortcuts of `shortcuts.py`; tests work on copies of it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "finished"  # each worker has its own base
    with FileLock(folder.with_suffix(".lock")), pytest.MonkeyPatch.context() as monkeypatch:
        if not (folder / "outputs").is_dir():
            attempt = tmp_path_factory.mktemp("attempt")
            place = Workplace(attempt, monkeypatch)
            assert place.run("task_training.py").error == 0
            assert place.run("train_p_diff.py").error == 0
            attempt.rename(folder)
    return folder


@pytest.fixture(scope="module")
def workplace(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    """Make one folder for all tests of a module, with a finished tiny run in it."""
    path = tmp_path_factory.mktemp("workplace")
    shutil.copytree(finished, path, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as monkeypatch, shortcuts.take_shortcuts():
        yield Workplace(path, monkeypatch)


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workplace]:
    """Make an empty folder."""
    with shortcuts.take_shortcuts():
        yield Workplace(tmp_path, monkeypatch)


@pytest.fixture
def few_digits() -> Iterator[None]:
    """Use a fraction of the digits, for tests that compare no run with the `finished` one."""
    with shortcuts.few_digits():
        yield
