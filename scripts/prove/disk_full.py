"""A full disk in every stage: the command ends in one sentence, and the same command resumes when there is room."""

import random
import resource
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from core.runtime.errors import UserError
from scripts.console import print_line
from scripts.prove.commands import START, Moment, run, run_whole
from scripts.prove.comparison import compare_folders
from scripts.prove.kills import AFTER, forget

ROOM = 2**14  # bytes; larger than the log of a command, and smaller than the files of every stage
# Stages that write files, in the order of the commands.
STAGES = (
    *(("task", "train task"), ("task", "collect"), ("p_diff", "autoencoder"), ("p_diff", "diffusion")),
    *(("p_diff", "score"), ("p_diff", "report"), ("generate", START), ("export", START), ("import", START)),
    ("report", START),
)


@dataclass(frozen=True)
class FullDisk:
    """One command that found no room."""

    command: str
    stage: str
    sentence: str


def leave_no_room(process: int) -> None:
    """Let no file of a process grow beyond `ROOM`, as if the disk were full."""
    resource.prlimit(process, resource.RLIMIT_FSIZE, (ROOM, ROOM))


def prove_disk_full(out: Path, *, seed: int, count: int) -> dict[str, Any]:
    """Fill the disk once in each stage, several times over, and compare the results with an undisturbed run.

    Raises:
        UserError: A command fails otherwise, or a number or file differs.
    """
    shutil.rmtree(out, ignore_errors=True)
    undisturbed = out / "undisturbed"
    undisturbed.mkdir(parents=True)
    durations = {name: run_whole(name, undisturbed) for name in AFTER}
    chosen, found, files, numbers = random.Random(seed), list[FullDisk](), 0, 0
    for start in range(0, count, len(STAGES)):
        folder = out / f"round_{start // len(STAGES)}"
        folder.mkdir()
        plan = STAGES[: count - start]
        for name in AFTER:
            for stage in [stage for command, stage in plan if command == name]:
                found.append(fill_up(name, stage, folder, durations[name].stage_seconds(stage), chosen))
                print_line(f"{name}, {stage}: {found[-1].sentence}")
            run_whole(name, folder)
        compared = compare_folders(undisturbed, folder)
        if compared.differences:
            raise UserError(f"after full disks of seed {seed}: {'; '.join(compared.differences[:5])}")
        files, numbers = files + compared.files, numbers + compared.numbers
    return {
        "seed": seed,
        "count": len(found),
        "stages": len({(full.command, full.stage) for full in found}),
        "files": files,
        "numbers": numbers,
        "differences": 0,
        "full_disks": [asdict(full) for full in found],
    }


def fill_up(name: str, stage: str, folder: Path, seconds: float, chosen: random.Random) -> FullDisk:
    """Run a command that finds no room from a random moment of a stage on; it has to end in one sentence."""
    fraction = chosen.random()
    while not (outcome := run(name, folder, Moment(stage, fraction * seconds), leave_no_room)).status:
        fraction /= 2  # All files were written before the disk was full.
        forget(name, folder)
    last = outcome.shown.strip().splitlines()[-1]
    if outcome.status != 1 or not last.startswith("error: ") or "Traceback" in outcome.shown:
        raise UserError(f"{name} ended with status {outcome.status} in {outcome.stage}: {last}")
    return FullDisk(name, outcome.stage, last.replace(f"{folder}/", ""))
