"""A run that is killed three times, and each time started again, equals an unbroken one in every file and number.

`python -m scripts.prove kills` kills 30 times at random moments. Here a forked process kills itself at a chosen one,
because a new process would import the libraries for seconds.
"""

import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from functools import partial

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
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


KILLS = {  # a method of which a call is the moment of a kill, and the number of this call
    "task_training.py": [(Snapshots, "on_train_batch_end", 5)],  # while checkpoints are collected
    "train_p_diff.py": [
        (SteppedModule, "training_step", 4),  # while the autoencoder is trained
        (ScoreStore, "put", 6),  # while sources are scored
    ],
}


def test_a_run_that_is_killed_three_times_equals_an_unbroken_one(finished, empty):
    for script, moments in KILLS.items():
        for moment in moments:
            run_and_die(empty, script, partial(die_in_call, *moment))
        assert empty.run(script).error == 0
    expected, found = empty.path / "expected", empty.path / "found"
    ignore = shutil.ignore_patterns("report")  # its figures are blank here
    for folder, source in ((expected, finished), (found, empty.path)):
        for part in ("outputs", "param_data"):
            shutil.copytree(source / part, folder / part, ignore=ignore)
    compared = compare_folders(expected, found)
    assert not compared.differences and compared.files > 30 and compared.numbers > 10_000
