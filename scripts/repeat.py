"""A run made again from its provenance, with a comparison of all its tables and of the machine.

python -m scripts.repeat outputs/digits_resnet18/ae_ddpm
python -m scripts.repeat outputs/digits_resnet18/ae_ddpm --collect --out repeated
"""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from core.command_line.run_command import run_command
from core.runtime.artifacts import read_json
from core.runtime.errors import UserError
from core.runtime.provenance import ROOT, collect_provenance
from core.runtime.run_directory import RunDirectory
from core.runtime.settings import flatten
from scripts.console import make_parser, print_line
from scripts.prove.comparison import Comparison, compare_folders

P_DIFF, TASK = "train_p_diff.py", "task_training.py"
# Settings of a run that only say where its files are.
PLACES = ("output_dir", "task.param.path")


def main() -> int:
    """Repeat the commands of a run, compare the results, and return 1 if a number differs."""
    parser = make_parser("python -m scripts.repeat", __doc__)
    parser.add_argument("run", type=Path, help="output_dir of a run of train_p_diff.py")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="new folder (default: <run>.repeated)")
    parser.add_argument(
        "--collect", action="store_true", help="also train the network again (default: use the same checkpoints file)"
    )
    chosen = parser.parse_args()
    run = RunDirectory(chosen.run)
    commands, config = read_commands(run), OmegaConf.load(run.config)
    out = chosen.out or run.path.with_name(f"{run.path.name}.repeated")
    if out.exists():
        raise UserError(f"{out} already exists. Remove it, or set --out to another folder")
    for line in compare_machines(commands["train"], collect_provenance()):
        print_line(line)
    places = {"output_dir": out / "run", "task.param.path": out / "checkpoints.safetensors"}
    if not chosen.collect:
        copy_checkpoints(Path(config.task.param.path), places["task.param.path"])
    for mode, recorded in commands.items():
        overrides = replace_places(recorded["command"][1:], config, places)
        if mode == "train" and chosen.collect:
            repeat([TASK, *overrides], recorded)
        repeat([P_DIFF, *overrides], recorded)
    return show_comparison(run, compare_folders(run.path, places["output_dir"]), places["output_dir"])


def read_commands(run: RunDirectory) -> dict[str, Any]:
    """Return the provenance of the commands of a run by mode, in the order in which they were given.

    Raises:
        UserError: The folder holds no trained run.
    """
    if not run.provenance.is_file() or not run.config.is_file():
        raise UserError(f"{run.path} holds no {run.provenance.name}. Use the output_dir of a run of train_p_diff.py")
    commands = read_json(run.provenance)
    if "train" not in commands:
        raise UserError(f"{run.provenance} names no command with mode=train. Use the output_dir of a trained run")
    return dict(sorted(commands.items(), key=lambda item: (item[0] != "train", item[1]["time"])))


def compare_machines(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return one line for each difference of code, versions and machine, which may explain a difference of numbers."""
    names = ("git", "python", "versions", "device", "cores", "threads")
    first, second = (dict(flatten({name: record.get(name) for name in names})) for record in (before, now))
    names_of_all = [*first, *(name for name in second if name not in first)]
    lines = [
        f"{name}: {first.get(name)} then, {second.get(name)} now"
        for name in names_of_all
        if first.get(name) != second.get(name)
    ]
    return lines or ["code, versions and machine are the same"]


def replace_places(words: Sequence[str], config: Any, places: Mapping[str, Path]) -> list[str]:
    """Return overrides with new places, and with the values that this run has in the place of swept ones.

    Raises:
        UserError: A sweep chose a file of a configuration group, which the configuration does not name.
    """
    kept = [word for word in words if "=" in word and word.partition("=")[0] not in PLACES]
    overrides = []
    for word, parsed in zip(kept, OverridesParser.create().parse_overrides(kept), strict=True):
        if parsed.is_sweep_override():
            value = OmegaConf.select(config, parsed.key_or_group)
            if value is None or OmegaConf.is_config(value):
                raise UserError(
                    f"the run is one of a sweep over {word}, so its command cannot be repeated for it alone"
                )
            word = f"{parsed.key_or_group}={value}"
        overrides.append(word)
    return overrides + [f"{name}={path}" for name, path in places.items()]


def copy_checkpoints(source: Path, target: Path) -> None:
    """Copy a checkpoints file and its shards, so that the repeated run does not find the scores beside the first one.

    Raises:
        UserError: The file does not exist.
    """
    if not source.is_file():
        raise UserError(f"{source}, the checkpoints of the run, does not exist. Set --collect to collect them again")
    target.parent.mkdir(parents=True)
    shutil.copyfile(source, target)
    for shard in source.parent.glob(f"{source.stem}-vectors-*.safetensors"):
        shutil.copyfile(shard, target.with_name(shard.name))


def repeat(command: Sequence[str], recorded: Mapping[str, Any]) -> None:
    """Run a command with as many threads as before; raise `UserError` if it fails."""
    print_line(f"python {shlex.join(command)}")
    environment = {**os.environ, "OMP_NUM_THREADS": str(recorded["threads"])}
    status = subprocess.run([sys.executable, ROOT / command[0], *command[1:]], env=environment, check=False).returncode
    if status:
        raise UserError(f"the command ended with status {status}. Give the same settings and images as for the run")


def show_comparison(run: RunDirectory, compared: Comparison, repeated: Path) -> int:
    """Print each source with its two mean accuracies, and what differs; return 1 if a number differs."""
    before, now = (
        {row["source"]: row for row in read_json(folder / run.metrics.name)["table"]} for folder in (run.path, repeated)
    )
    for source in [*before, *(name for name in now if name not in before)]:
        first, second = (table.get(source, {}).get("accuracy_mean") for table in (before, now))
        same = "equal" if before.get(source) == now.get(source) else "DIFFERS"
        print_line(f"{source:20} {first!s:22} {second!s:22} {same}")
    differences = [each for each in compared.differences if not each.startswith(run.config.name)]
    for difference in differences[:20]:
        print_line(difference)
    print_line(f"compared {compared.files} files and {compared.numbers} numbers: {len(differences)} differ")
    return int(bool(differences))


if __name__ == "__main__":
    run_command(main)
