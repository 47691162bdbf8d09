"""A run that is killed three times, and each time started again, equals an unbroken one in every file and number.

`python -m scripts.prove kills` kills 30 times at random moments. Here a forked process kills itself at a chosen one,
because a new process would import the libraries for seconds.
"""

import os
import shutil
import signal
import sys
from collections.abc import Callable

import torch

from core.evaluation.store import ScoreStore
from core.training.stage_modules import SteppedModule
from scripts.prove.comparison import compare_folders
from tasks.collecting.steps import Snapshots
from tests.pipeline.conftest import ENTRY_POINTS, TINY


def die_in_call(owner: type, name: str, number: int) -> None:
    """Let this process kill itself when a method is called for the `number`-th time."""
    method, calls = getattr(owner, name), iter(range(1, 1000))

    def counted(*arguments, **options):
        if next(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return method(*arguments, **options)

    setattr(owner, name, counted)


def run_and_die(place, script: str, plan: Callable[[], None]) -> None:
    """Run a command in a forked process that kills itself as planned."""
    child = os.fork()
    if child == 0:  # nothing below returns to pytest
        try:
            torch.set_num_threads(1)
            plan()
            os.chdir(place.path)
            sys.argv = [script, *TINY]
            ENTRY_POINTS[script]()
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


KILLS = [
    ("task_training.py", Snapshots, "on_train_batch_end", 5),  # while checkpoints are collected
    ("train_p_diff.py", SteppedModule, "training_step", 4),  # while the autoencoder is trained
    ("train_p_diff.py", ScoreStore, "put", 6),  # while sources are scored
]


def test_a_run_that_is_killed_three_times_equals_an_unbroken_one(finished, empty):
    for script, owner, name, number in KILLS:
        run_and_die(empty, script, lambda owner=owner, name=name, number=number: die_in_call(owner, name, number))
    for script in ENTRY_POINTS:
        assert empty.run(script).error == 0
    shutil.rmtree(empty.path / "outputs/digits_test_resnet/ae_ddpm/report")  # its figures are blank here
    expected = empty.path / "expected"
    shutil.copytree(finished, expected, ignore=shutil.ignore_patterns("report"))
    found = empty.path / "found"
    for part in ("outputs", "param_data"):
        (empty.path / part).rename(found / part) if found.mkdir(exist_ok=True) is None else None
    compared = compare_folders(expected, found)
    assert not compared.differences and compared.files > 30 and compared.numbers > 10_000
