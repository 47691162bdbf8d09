"""Checkpoints of your own: make a checkpoints file from a folder of state dicts, for train_p_diff.py.

python -m scripts.import_checkpoints --model resnet18 --dir runs/epochs --subset last_norms --dataset cifar10
python -m scripts.import_checkpoints --score-with my_code:task --dir runs/epochs --subset "head.*"
"""

import argparse
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from core.command_line.ranges import check_ranges
from core.command_line.run_command import run_command
from core.runtime.errors import UserError
from core.runtime.provenance import ROOT
from tasks.importing.import_checkpoints import import_checkpoints
from tasks.importing.state_files import list_state_files
from tasks.networks.build import ModelSpec
from tasks.scoring.scorer import ScoringSpec
from tasks.specification import TaskSpec

# What experiment=whole_network changes that does not follow from the file: an autoencoder for large D, and the baseline
# that trains on does so with a learning rate for whole networks.
WHOLE = ["system/autoencoder=chunked", "system.autoencoder_steps=1500", "task.collect.optimizer.lr=5e-4"]


def parse_arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.import_checkpoints", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "--dir",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="state dicts: .safetensors, .pth, .pt, .pth.tar, .ckpt, .bin",
    )
    parser.add_argument(
        "--files", default="*", metavar="PATTERN", help="which files of the folder, for example 'epoch*' (all)"
    )
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="a name of timm, or package.module:callable, called with the --model-option alone",
    )
    parser.add_argument(
        "--model-option",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="arguments of timm.create_model, or of the callable",
    )
    parser.add_argument(
        "--subset",
        nargs="+",
        default=["last_norms"],
        metavar="WHAT",
        help="last_norms, all, or globs of parameter names (last_norms)",
    )
    parser.add_argument("--count", type=int, default=2, help="how many normalization layers last_norms takes (2)")
    parser.add_argument(
        "--base",
        type=Path,
        metavar="FILE",
        help="full state dict around the subset, where the files hold the subset alone",
    )
    parser.add_argument(
        "--allow-different-rest", action="store_true", help="take subsets of files that differ outside it"
    )
    parser.add_argument("--task", metavar="NAME", help="as task=NAME of train_p_diff.py")
    parser.add_argument("--dataset", metavar="NAME", help="as task.data.dataset=NAME")
    parser.add_argument(
        "--data",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="as task.data.KEY=VALUE, for example root=FOLDER mean=[0.5] std=[0.5]",
    )
    parser.add_argument(
        "--score-with",
        metavar="MODULE:FUNCTION",
        help='your own network and images: function() returns (model, {"train": …, "val": …, "test": …})',
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="the checkpoints file (param_data/<folder>/checkpoints.safetensors)"
    )
    arguments = parser.parse_args()
    if bool(arguments.model) == bool(arguments.score_with):
        parser.error("give either --model, with the images as --dataset, or --score-with, which returns both")
    if not arguments.score_with and not (arguments.dataset or arguments.task):
        parser.error("give with --dataset (or --task) the images that the checkpoints are scored on")
    return arguments


def list_overrides(arguments: argparse.Namespace) -> list[str]:
    """Return what train_p_diff.py has to be told of the images, and of code that only the user may name."""
    words = [f"task={arguments.task}"] if arguments.task else []
    words += [f"task.data.dataset={arguments.dataset}"] if arguments.dataset else []
    words += [f"task.data.{key}={quote(value)}" for key, value in split_pairs(arguments.data, "--data")]
    words += [f"task.score_with={arguments.score_with}"] if arguments.score_with else []
    return words + ([f"task.model.name={arguments.model}"] if ":" in (arguments.model or "") else [])


def split_pairs(words: Sequence[str], option: str) -> list[tuple[str, str]]:
    """Return (key, value) of each KEY=VALUE; raises `UserError` for a word without them."""
    for word in words:
        if not re.match(r"\w+=", word):
            raise UserError(f"{option} {word}: expected KEY=VALUE")
    return [(key, value) for key, _, value in (word.partition("=") for word in words)]


def quote(value: object) -> str:
    """Return a value as Hydra reads it back, whatever characters it holds; a list of numbers stays one."""
    text = str(value)
    if re.fullmatch(r"[\w./:@+-]+|\[[\d.,]+\]", text):
        return text
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def specify_task(config: Mapping[str, Any], arguments: argparse.Namespace) -> TaskSpec:
    """Return the task of the `task` section with the network and the subset of the command line."""
    words = [f"{key}={value}" for key, value in split_pairs(arguments.model_option, "--model-option")]
    options: Any = OmegaConf.to_container(OmegaConf.from_dotlist(words))
    subset = arguments.subset[0] if arguments.subset in (["last_norms"], ["all"]) else arguments.subset
    task = TaskSpec.from_config(config)
    return replace(
        task,
        model=ModelSpec(arguments.model or "", options=options),
        param=replace(task.param, subset=subset, count=arguments.count),
    )


def main() -> None:
    """Write the checkpoints file and print the command that models it."""
    arguments = parse_arguments()
    name = arguments.dir.resolve().name
    out = arguments.out or Path("param_data") / name / "checkpoints.safetensors"
    if out.exists():
        raise UserError(f"{out} is there already; delete it, or give another file with --out")
    overrides = list_overrides(arguments)
    try:
        with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
            cfg = compose("base", overrides=overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(
            f"{' '.join(overrides)} does not fit the configuration ({str(error).splitlines()[0]})"
        ) from error
    check_ranges(cfg)
    config: Any = OmegaConf.to_container(cfg.task, resolve=True)
    task = specify_task(config, arguments)
    checkpoints = import_checkpoints(
        task,
        list_state_files(arguments.dir, arguments.files),
        base=arguments.base,
        allow_different_rest=arguments.allow_different_rest,
        scoring=ScoringSpec.from_config(cfg.scoring, num_workers=task.data.num_workers, accelerator="auto"),
    )
    checkpoints.save(out)

    accuracy_K, names, subset = 100 * checkpoints.accuracy_K, checkpoints.provenance["files"], checkpoints.subset
    sys.stdout.write(
        f"{out}: {len(checkpoints)} checkpoints ({names[0]} … {names[-1]}) of {subset.num_params} parameters in "
        f"{len(subset.names)} tensors, validation accuracy {accuracy_K.min():.2f}–{accuracy_K.max():.2f} %\n"
    )
    whole = WHOLE if arguments.subset == ["all"] else []
    command = [
        "python",
        "train_p_diff.py",
        f"task.param.path={quote(out)}",
        f"task.param.k={len(checkpoints)}",
        *overrides,
        *whole,
        f"output_dir={quote(f'outputs/{name}')}",
    ]
    sys.stdout.write(f"next: {shlex.join(command)}\n")


if __name__ == "__main__":
    run_command(main)
