"""The runner of the parts, one after the other, each in a process group that is killed when its time is up."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.runtime.artifacts import read_json
from scripts.console import print_line
from scripts.gpu_check.packages import ROOT
from scripts.gpu_check.parts import Part

TAIL_LINES = 15  # the last lines of a failed part's log, which are printed


@dataclass(frozen=True)
class Outcome:
    """The result of one part: "passed", "failed" or "overran", with its seconds and its findings."""

    part: Part
    result: str
    seconds: float
    findings: Mapping[str, Any]

    def row(self) -> dict[str, Any]:
        """Return the part's row in the table of all parts."""
        seconds = round(self.seconds, 1)
        return {"part": self.part.name, "result": self.result, "seconds": seconds, "goal": self.part.goal}


def run_parts(parts: Sequence[Part], folder: Path, rehearse: bool) -> list[Outcome]:
    """Run every part, also after a failed one, and print how each ended; write <part>.log to `folder`."""
    outcomes = []
    for number, part in enumerate(parts, start=1):
        print_line(f"[{number}/{len(parts)}] {part.name}: {part.about} (at most {part.limit_s / 60:.3g} minutes)")
        outcomes.append(run_part(part, folder, rehearse))
        print_line(f"[{number}/{len(parts)}] {part.name} {outcomes[-1].result} in {outcomes[-1].seconds:.0f} s")
        if outcomes[-1].result != "passed":
            print_line(read_tail(folder / f"{part.name}.log"))
    return outcomes


def run_part(part: Part, folder: Path, rehearse: bool) -> Outcome:
    """Run one part, and kill all its processes when its time is up."""
    path = folder / f"{part.name}.json"
    path.unlink(missing_ok=True)
    start = time.perf_counter()
    with (
        (folder / f"{part.name}.log").open("wb") as log,
        process_group(part.argv(path, rehearse), log, rehearse) as process,
    ):
        try:
            result = "passed" if process.wait(part.limit_s) == 0 else "failed"
        except subprocess.TimeoutExpired:
            result = "overran"
    seconds = time.perf_counter() - start
    findings = read_json(path) if path.is_file() else {"tables": [], "failures": []}
    path.unlink(missing_ok=True)
    return Outcome(part, result, seconds, findings)


@contextmanager
def process_group(argv: Sequence[str], log: Any, rehearse: bool) -> Iterator[subprocess.Popen]:
    """Start a command in a new process group, and kill the group if it still runs at the end of the block."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if rehearse:  # a rehearsal uses no GPU, even if there is one
        environment |= {"CUDA_VISIBLE_DEVICES": "", "P_DIFF_REHEARSE": "1"}
        environment["OMP_NUM_THREADS"] = "1"  # threads would only wait for each other, since tensors are small
    streams = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": subprocess.STDOUT}
    process = subprocess.Popen(argv, cwd=ROOT, env=environment, start_new_session=True, **streams)
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def read_tail(log: Path) -> str:
    """Return the last lines of a log, indented; a progress bar is shown in its last state."""
    lines = log.read_bytes().decode(errors="replace").replace("\r\n", "\n").rstrip().split("\n")[-TAIL_LINES:]
    return "\n".join("    " + line.rpartition("\r")[2] for line in lines)
