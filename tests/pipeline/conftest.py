"""The real entry points, run in this process in an empty folder, on a network that trains in seconds."""

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

import task_training
import train_p_diff
from tests.pipeline.shortcuts import blank_figures, remembered_splits

TINY = [
    "trainer=cpu",
    "task.model.name=test_resnet",
    "task.epochs=1",
    "task.param.k=6",
    "system.autoencoder_steps=6",
    "system.diffusion_steps=6",
    "generation.num_models=5",
    "evaluation.num_baselines=3",
]
ENTRY_POINTS = {"task_training.py": task_training.main, "train_p_diff.py": train_p_diff.main}


@dataclass
class Outcome:
    """How a command ended: 0, or the sentence on stderr."""

    error: str | int


class Workplace:
    """A folder in which commands are run as a user would."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch):
        self.path, self.monkeypatch = path, monkeypatch

    def run(self, script: str, *overrides: str, tiny: bool = True) -> Outcome:
        """`python <script> <overrides>`; later overrides win."""
        chosen = {override.split("=")[0]: override for override in [*(TINY if tiny else []), *overrides]}
        options_first = sorted(chosen.values(), key=lambda word: not word.startswith("-"))
        self.monkeypatch.setattr(sys, "argv", [script, *options_first])
        self.monkeypatch.chdir(self.path)
        try:
            ENTRY_POINTS[script]()
        except SystemExit as exit_:
            return Outcome(exit_.code or 0)
        return Outcome(0)

    def metrics(self, run: str = "outputs/digits_test_resnet/ae_ddpm") -> dict:
        """metrics.json of a run."""
        return json.loads((self.path / run / "metrics.json").read_text())


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder with a finished tiny run, made once for all workers without a shortcut; tests work on copies."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "finished"
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
    """One folder for all tests of a module, with a finished tiny run in it."""
    path = tmp_path_factory.mktemp("workplace")
    shutil.copytree(finished, path, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as monkeypatch, blank_figures(), remembered_splits():
        yield Workplace(path, monkeypatch)


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workplace]:
    """A folder without anything in it."""
    with blank_figures(), remembered_splits():
        yield Workplace(tmp_path, monkeypatch)
