"""The import of your own checkpoints: a folder of state dicts becomes one checkpoints file for train_p_diff.py.

python -m scripts.import_checkpoints --model resnet18 --dir runs/epochs --dataset cifar10
python -m scripts.import_checkpoints --score-with my_code:task --dir runs/epochs --subset "head.*"
python -m scripts.import_checkpoints --peft runs/step* --base vit.safetensors --model vit_tiny_patch16_224 --task pets
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
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from core.checkpoints.checkpoint_set import CheckpointSet
from core.command_line.ranges import check_ranges
from core.command_line.run_command import run_command
from core.report.metric_words import MetricWords
from core.runtime.errors import UserError
from core.runtime.file_lock import hold_lock
from core.runtime.provenance import ROOT
from scripts.console import make_parser
from tasks.importing.adapter_folders import read_adapter, read_common_adapters, sort_folders
from tasks.importing.import_checkpoints import import_checkpoints
from tasks.importing.state_files import list_state_files, read_state
from tasks.networks.adapters import LORA
from tasks.networks.build import ModelSpec
from tasks.scoring.scorer import ScoringSpec
from tasks.specification import TaskSpec

# Settings of experiment=whole_network that do not follow from the checkpoints file: an autoencoder for large D, and a
# learning rate that suits whole networks for the baseline of fine-tuned checkpoints.
LAST_NORMS = "last_norms"
WHOLE_NETWORK = ["system/autoencoder=chunked", "system.autoencoder_steps=1500", "task.collect.optimizer.lr=5e-4"]


# Settings that suit adapters, for the same reasons.
ADAPTERS = ["system/autoencoder=chunked", "task.collect.optimizer.lr=1e-3"]


def parse_arguments() -> argparse.Namespace:
    """Return the options of the command line; end the process if they do not name a network and its images."""
    parser = make_parser("python -m scripts.import_checkpoints", __doc__)
    add_file_options(parser.add_argument_group("files"))
    add_network_options(parser.add_argument_group("network (give --model or --score-with)"))
    add_subset_options(parser.add_argument_group("generated parameters"))
    add_image_options(parser.add_argument_group("images (with --model; give --dataset or --task)"))
    arguments = parser.parse_args()
    if bool(arguments.model) == bool(arguments.score_with):
        parser.error("network and images are missing or set twice. Set either --model and --dataset, or --score-with")
    if arguments.score_with and (arguments.dataset or arguments.data):
        parser.error("--score-with returns its own images. Remove --dataset and --data")
    if arguments.peft and (not arguments.base or arguments.score_with or arguments.subset != [LAST_NORMS]):
        parser.error(
            "--peft reads adapters, which are the generated parameters of a network that --base holds. Set --model and "
            "--base FILE to this network, and remove --score-with and --subset"
        )
    if not arguments.score_with and not (arguments.dataset or arguments.task):
        parser.error("the images to score the checkpoints on are missing. Set --dataset or --task")
    return arguments


def add_file_options(group: argparse._ArgumentGroup) -> None:
    """Add the options for the files that are read and written."""
    source = group.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--dir",
        type=Path,
        metavar="FOLDER",
        help="folder of the state dicts: .safetensors, .pth, .pt, .pth.tar, .ckpt or .bin (required, or --peft)",
    )
    source.add_argument(
        "--peft",
        type=Path,
        nargs="+",
        metavar="FOLDER",
        help="folders of LoRA adapters, each as peft's save_pretrained writes it; needs --base (no default)",
    )
    group.add_argument(
        "--files",
        default="*",
        metavar="PATTERN",
        help="pattern of the file names to read, for example 'epoch*' (default: every file)",
    )
    group.add_argument(
        "--base",
        type=Path,
        metavar="FILE",
        help="state dict of the whole network, for adapters and for files that hold the generated parameters alone "
        "(default: the first file that holds the whole network)",
    )
    group.add_argument(
        "--allow-different-rest",
        action="store_true",
        help="accept files that differ outside the generated parameters, and take the rest of the network from the "
        "base file (default: refuse them)",
    )
    group.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="checkpoints file to write (default: param_data/<name of the folder>/checkpoints.safetensors, where the "
        "folder is --dir or the one that holds the folders of --peft)",
    )


def add_network_options(group: argparse._ArgumentGroup) -> None:
    """Add the options that name the network."""
    group.add_argument(
        "--model",
        metavar="NAME",
        help="name of a timm model, or package.module:function that returns the network (no default)",
    )
    group.add_argument(
        "--model-option",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="arguments of timm.create_model or of the function, for example img_size=32 (default: none)",
    )
    group.add_argument(
        "--score-with",
        metavar="MODULE:FUNCTION",
        help="function in your own code that returns the network and its images, as "
        '(model, {"train": ..., "val": ..., "test": ...}) (no default)',
    )


def add_subset_options(group: argparse._ArgumentGroup) -> None:
    """Add the options that choose the generated parameters."""
    group.add_argument(
        "--subset",
        nargs="+",
        default=[LAST_NORMS],
        metavar="NAMES",
        help="last_norms, all, or patterns of parameter names such as 'head.*' (default: last_norms)",
    )
    group.add_argument(
        "--count",
        type=int,
        default=2,
        metavar="N",
        help="number of normalization layers in --subset last_norms (default: 2)",
    )


def add_image_options(group: argparse._ArgumentGroup) -> None:
    """Add the options that name the images on which each checkpoint is scored."""
    group.add_argument(
        "--dataset",
        metavar="NAME",
        help="dataset, as task.data.dataset of train_p_diff.py (default: the dataset of --task)",
    )
    group.add_argument(
        "--task",
        metavar="NAME",
        help="file in configs/task, as task of train_p_diff.py (default: digits, with the images of --dataset)",
    )
    group.add_argument(
        "--data",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="settings of task.data, for example root=FOLDER mean=[0.5] std=[0.5] (default: the settings of the task)",
    )


def list_overrides(arguments: argparse.Namespace) -> list[str]:
    """Return the overrides that train_p_diff.py needs as well: the images, and the user's own code if it is used."""
    words = [f"task={arguments.task}"] if arguments.task else []
    words += [f"task.data.dataset={arguments.dataset}"] if arguments.dataset else []
    words += [f"task.data.{key}={quote(value)}" for key, value in split_pairs(arguments.data, "--data")]
    words += [f"task.score_with={arguments.score_with}"] if arguments.score_with else []
    return words + ([f"task.model.name={arguments.model}"] if ":" in (arguments.model or "") else [])


def split_pairs(words: Sequence[str], option: str) -> list[tuple[str, str]]:
    """Return (key, value) of each KEY=VALUE.

    Raises:
        UserError: A word does not have this form.
    """
    for word in words:
        if not re.match(r"\w+=", word):
            raise UserError(f"{option} {word} is invalid: expected KEY=VALUE. Set {option} KEY=VALUE")
    return [(key, value) for key, _, value in (word.partition("=") for word in words)]


def quote(value: object) -> str:
    """Return a value for Hydra, in quotes unless it is a plain word or a list of numbers."""
    text = str(value)
    if re.fullmatch(r"[\w./:@+-]+|\[[\d.,]+\]", text):
        return text
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def compose_configuration(overrides: list[str]) -> DictConfig:
    """Return the configuration of train_p_diff.py with these overrides.

    Raises:
        UserError: An override does not exist, or its value is out of range.
    """
    try:
        with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
            cfg = compose("base", overrides=overrides)
    except (HydraException, OmegaConfBaseException) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{' '.join(overrides)} is invalid ({reason}). Correct --task, --dataset or --data") from error
    check_ranges(cfg)
    return cfg


def specify_task(config: Mapping[str, Any], arguments: argparse.Namespace) -> TaskSpec:
    """Return the task that the `task` section describes, with the network and the subset of the command line."""
    words = [f"{key}={value}" for key, value in split_pairs(arguments.model_option, "--model-option")]
    options: Any = OmegaConf.to_container(OmegaConf.from_dotlist(words))
    subset = arguments.subset[0] if arguments.subset in ([LAST_NORMS], ["all"]) else arguments.subset
    lora = None
    if arguments.peft:
        subset, lora = LORA, read_common_adapters(sort_folders(arguments.peft))
    task = TaskSpec.from_config(config)
    return replace(
        task,
        model=ModelSpec(arguments.model or "", options=options, lora=lora),
        param=replace(task.param, subset=subset, count=arguments.count),
    )


def summarize(checkpoints: CheckpointSet, out: Path, next_command: Sequence[str]) -> str:
    """Return one line for each fact of the import; the last one is the command that comes next."""
    files, subset, words = checkpoints.provenance["files"], checkpoints.subset, MetricWords.read(checkpoints.provenance)
    lines = {
        "checkpoints": f"{len(checkpoints)} ({files[0]} … {files[-1]})",
        "parameters": f"{subset.num_params:,} in {len(subset.names)} tensors",
        words.name: f"{words.format_range(checkpoints.accuracy_K.tolist())} on validation",
        "wrote": out,
        "next": shlex.join(next_command),
    }
    return "".join(f"{f'{name}:':<13}{text}\n" for name, text in lines.items())


def require_absent(out: Path) -> None:
    """Raise `UserError` if the checkpoints file exists, because an import never overwrites a file."""
    if out.exists():
        raise UserError(f"{out} already exists. Delete it, or set --out to another file")


def main() -> None:
    """Write the checkpoints file and print a summary that ends with the train_p_diff.py command to run next."""
    arguments = parse_arguments()
    folder = (arguments.dir or arguments.peft[0].parent).resolve().name
    out = arguments.out or Path("param_data") / folder / "checkpoints.safetensors"
    require_absent(out)
    overrides = list_overrides(arguments)
    cfg = compose_configuration(overrides)
    config: Any = OmegaConf.to_container(cfg.task, resolve=True)
    task = specify_task(config, arguments)
    files = sort_folders(arguments.peft) if arguments.peft else list_state_files(arguments.dir, arguments.files)
    with hold_lock(out, advice="Set --out to a file in a writable folder", wait=True):
        require_absent(out)  # another command may have written it in the meantime
        checkpoints = import_checkpoints(
            task,
            files,
            base=arguments.base,
            allow_different_rest=arguments.allow_different_rest,
            read=read_adapter if arguments.peft else read_state,
            scoring=ScoringSpec.from_config(cfg.scoring, num_workers=task.data.num_workers, accelerator="auto"),
        )
        checkpoints.save(out)

    suited = WHOLE_NETWORK if arguments.subset == ["all"] else ADAPTERS if arguments.peft else []
    paths = [f"task.param.path={quote(out)}", f"task.param.k={len(checkpoints)}"]
    output_dir = f"output_dir={quote(f'outputs/{folder}')}"
    next_command = ["python", "train_p_diff.py", *paths, *overrides, *suited, output_dir]
    sys.stdout.write(summarize(checkpoints, out, next_command))


if __name__ == "__main__":
    run_command(main)
