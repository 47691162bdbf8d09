"""SIGKILL at random moments of every stage: the same command again, and every number is that of an unbroken run."""

import random
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from core.runtime.errors import UserError
from scripts.console import print_line
from scripts.prove.commands import COMMANDS, START, Moment, Outcome, run, run_whole
from scripts.prove.comparison import compare_folders

# The stages in which each series of kills strikes; one folder is resumed after each kill of its series.
SERIES: tuple[tuple[tuple[str, str], ...], ...] = (
    (
        *(("task", "train task"), ("task", "collect"), ("p_diff", "autoencoder"), ("p_diff", "diffusion")),
        *(("p_diff", "score"), ("p_diff", "report")),
    ),
    (
        *(("task", "collect"), ("task", "collect"), ("p_diff", "diffusion"), ("p_diff", "score"), ("p_diff", "score")),
        ("generate", START),
    ),
    (
        *(("task", START), ("task", "train task"), ("p_diff", "autoencoder"), ("p_diff", "generate")),
        *(("p_diff", "score"), ("p_diff", "score")),
    ),
    (
        *(("task", "train task"), ("p_diff", START), ("p_diff", "score"), ("p_diff", "score"), ("p_diff", "report")),
        ("export", START),
    ),
    (
        *(("p_diff", "autoencoder"), ("p_diff", "score"), ("report", START), ("import", START), ("import", "score")),
        ("import", "read"),
    ),
)
AFTER = ("task", "p_diff", "generate", "export", "import", "report")  # the order of the commands


@dataclass(frozen=True)
class Kill:
    """One kill that struck."""

    series: int
    command: str
    stage: str  # in which it struck
    fraction: float  # of the duration that the stage has in the unbroken run, after which it was sent
    tables: int  # score tables that the run had by then


def prove_kills(out: Path, *, seed: int, count: int) -> dict[str, Any]:
    """Make an unbroken run, then `count` kills in several series, and compare the results of each series with it.

    Returns:
        The kills with the numbers of what was compared.

    Raises:
        UserError: A command fails, or a number or file differs.
    """
    shutil.rmtree(out, ignore_errors=True)
    unbroken = out / "unbroken"
    unbroken.mkdir(parents=True)
    durations = {name: run_whole(name, unbroken) for name in AFTER}
    print_line(f"unbroken run: {sum(outcome.seconds for outcome in durations.values()):.0f} s")
    chosen, kills, files, numbers = random.Random(seed), list[Kill](), 0, 0
    while len(kills) < count:
        number = len({kill.series for kill in kills})
        plan = SERIES[number % len(SERIES)][: count - len(kills)]
        folder = out / f"series_{number}"
        folder.mkdir()
        kills += strike(folder, number, plan, durations=durations, chosen=chosen)
        compared = compare_folders(unbroken, folder)
        if compared.differences:
            raise UserError(f"after kills {plan} of seed {seed}: {'; '.join(compared.differences[:5])}")
        files, numbers = files + compared.files, numbers + compared.numbers
        print_line(
            f"series {number}: {len(plan)} kills, {compared.files} files and {compared.numbers} numbers are equal"
        )
    return {
        "seed": seed,
        "count": len(kills),
        "stages": len({(kill.command, kill.stage) for kill in kills}),
        "series": len({kill.series for kill in kills}),
        "files": files,
        "numbers": numbers,
        "differences": 0,
        "kills": [asdict(kill) for kill in kills],
    }


def strike(
    folder: Path,
    series: int,
    plan: tuple[tuple[str, str], ...],
    *,
    durations: dict[str, Outcome],
    chosen: random.Random,
) -> list[Kill]:
    """Run all commands in a folder, each killed as planned and given again; return the kills."""
    struck = []
    for name in AFTER:
        for stage in [stage for command, stage in plan if command == name]:
            fraction = chosen.random()
            while True:
                outcome = run(name, folder, Moment(stage, fraction * durations[name].stage_seconds(stage)))
                if outcome.status:
                    break
                fraction /= 2  # The command was faster than the unbroken run, so the kill came too late.
                forget(name, folder)
            if outcome.status != -9:
                raise UserError(f"{name} failed instead of being killed: {outcome.shown.strip().splitlines()[-1:]}")
            tables = len(list(folder.glob("outputs/*/*/scores/*.npz")))
            struck.append(Kill(series, name, outcome.stage, round(fraction, 4), tables))
            print_line(f"killed {' '.join(COMMANDS[name][:2])} in {outcome.stage} with {tables} score tables")
        run_whole(name, folder)
    return struck


def forget(name: str, folder: Path) -> None:
    """Delete what a command has finished, so that it can be killed in the middle."""
    if name == "task":
        shutil.rmtree(folder / "param_data")
    if name == "p_diff":
        shutil.rmtree(folder / "outputs")
        for shared in folder.glob("param_data/*/scores"):
            shutil.rmtree(shared)
    if name == "import":
        shutil.rmtree(folder / "param_data/imported")
