"""The small run of the proofs: its commands, and the processes that run them."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from core.runtime.errors import UserError
from core.runtime.provenance import ROOT

SMALL = (
    "trainer=cpu",
    "task.model.name=test_resnet",
    "task.epochs=3",
    "task.param.k=12",
    "task.collect.held_out=4",
    "system.autoencoder_steps=150",
    "system.diffusion_steps=150",
    "generation.num_models=8",
    "evaluation.num_baselines=4",
    "evaluation.num_finetuned=2",
    "evaluation.finetune_steps=[2,5]",
)
CHECKPOINTS = "param_data/digits_test_resnet/checkpoints.safetensors"
RUN = "outputs/digits_test_resnet/ae_ddpm"
TASK = ("task_training.py", *SMALL)
P_DIFF = ("train_p_diff.py", *SMALL)
GENERATE = (*P_DIFF, "mode=generate", "generation.num_models=20")
EXPORT = ("-m", "scripts.export", RUN, "--model", *map(str, range(1, 20)))
IMPORT = (
    *("-m", "scripts.import_checkpoints", "--model", "test_resnet", "--dataset", "digits", "--dir", f"{RUN}/generated"),
    *("--files", "0*", "--out", "param_data/imported/checkpoints.safetensors"),
)
REPORT = ("-m", "scripts.make_report", RUN)
COMMANDS = {"task": TASK, "p_diff": P_DIFF, "generate": GENERATE, "export": EXPORT, "import": IMPORT, "report": REPORT}
LABEL = re.compile(r"^\[\d+/\d+\] ([a-z ]+?)(?::|$)", re.MULTILINE)  # the line with which a stage begins
START = "start"  # the time before the first stage
POLL_SECONDS = 0.01


@dataclass
class Outcome:
    """How a process ended: its status, what it wrote to stderr, the stage in which it ended, and when stages began."""

    status: int
    shown: str
    stage: str
    began: dict[str, float] = field(default_factory=dict)  # seconds after the start of the process
    seconds: float = 0.0

    def stage_seconds(self, stage: str) -> float:
        """Return how long a stage took."""
        later = [at for at in self.began.values() if at > self.began[stage]]
        return min([*later, self.seconds]) - self.began[stage]


@dataclass(frozen=True)
class Moment:
    """A moment of a command: a delay after the beginning of a stage."""

    stage: str
    delay: float


def kill(process: int) -> None:
    """End a process at once, as the kernel does when memory runs out."""
    os.kill(process, signal.SIGKILL)


def run(name: str, folder: Path, moment: Moment | None = None, act: Callable[[int], None] = kill) -> Outcome:
    """Run one of `COMMANDS` in a folder, and do something to its process at a moment unless it has ended before.

    All commands use one thread, so that they repeat their numbers.

    Args:
        name: The name of the command.
        folder: The folder in which it runs; its output goes to a log file there.
        moment: When to act; None never acts.
        act: What to do to the process of this number.
    """
    log = folder / f"{name}.log"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    script, *words = COMMANDS[name]
    command = [sys.executable, *([script] if script == "-m" else [str(ROOT / script)]), *words]
    with log.open("w+") as stream:
        start = time.monotonic()
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=stream, stderr=subprocess.STDOUT)
        began, stage = {START: 0.0}, START
        while process.poll() is None:
            now = time.monotonic() - start
            for label in LABEL.findall(log.read_text(errors="replace")):
                if label not in began:
                    began[label], stage = now, label
            if moment and moment.stage in began and now >= began[moment.stage] + moment.delay:
                act(process.pid)
                moment = None
            time.sleep(POLL_SECONDS)
    return Outcome(process.returncode, log.read_text(errors="replace"), stage, began, time.monotonic() - start)


def run_whole(name: str, folder: Path) -> Outcome:
    """Run one of `COMMANDS` to its end; raise `UserError` if it fails."""
    outcome = run(name, folder)
    if outcome.status:
        last = outcome.shown.strip().splitlines()[-1:]
        raise UserError(f"{name} ended with status {outcome.status} in {folder}: {''.join(last)}")
    return outcome
