"""The real entry points, run in this process in an empty folder, on a network that trains in seconds."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import task_training
import train_p_diff

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


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """One folder for all tests of a module, with a finished tiny run in it."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        place = Workplace(tmp_path_factory.mktemp("workplace"), monkeypatch)
        assert place.run("task_training.py").error == 0
        assert place.run("train_p_diff.py").error == 0
        yield place


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """A folder without anything in it."""
    return Workplace(tmp_path, monkeypatch)
