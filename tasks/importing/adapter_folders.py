"""Folders of LoRA adapters as peft writes them: adapter_config.json and adapter_model.safetensors."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from core.runtime.errors import UserError
from tasks.importing.state_files import load_safetensors, split_numbers
from tasks.networks.adapters import ADAPTER, LoraSpec

CONFIG_NAME, WEIGHTS_NAME, PICKLE_NAME = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
PREFIX = "base_model.model."  # peft wraps the network twice
A_NAME, B_NAME = ".lora_A.weight", ".lora_B.weight"
# Other initializations of an adapter change the frozen weights as well.
PLAIN_INITIALIZATIONS = (True, False, "gaussian", "orthogonal")
HARMLESS = {  # settings of peft that do not change what an adapter computes, or that are read here
    "auto_mapping", "base_model_name_or_path", "exclude_modules", "inference_mode", "init_lora_weights",
    "layers_pattern", "layers_to_transform", "lora_alpha", "lora_dropout", "megatron_core", "peft_type", "peft_version",
    "qalora_group_size", "r", "revision", "runtime_config", "target_modules", "task_type", "use_rslora",
}  # fmt: skip
PLAIN = {  # settings of peft and their values with which an adapter is W + scale · B A with one rank for all layers
    "bias": "none",
    "use_dora": False,
    "lora_bias": False,
    "modules_to_save": None,
    "rank_pattern": {},
    "alpha_pattern": {},
    "fan_in_fan_out": False,
    "use_qalora": False,
    "alora_invocation_tokens": None,
}


def sort_folders(folders: Sequence[Path]) -> list[Path]:
    """Return the folders in natural order (step2 before step10).

    Raises:
        UserError: A folder does not exist, or there are fewer than two.
    """
    if missing := [folder for folder in folders if not folder.is_dir()]:
        raise UserError(f"--peft {missing[0]}: folder not found. Set --peft to the folders of the adapters")
    if len(folders) < 2:
        raise UserError(
            f"--peft names {len(folders)} folder ({folders[0]}), but at least 2 adapters are needed. Set --peft to all "
            "folders, for example with --peft runs/step*"
        )
    return sorted(folders, key=split_numbers)


def read_common_adapters(folders: Sequence[Path]) -> LoraSpec:
    """Return the adapters that all folders describe.

    Raises:
        UserError: A folder holds no adapter that this project can use, or two folders hold different kinds.
    """
    first = read_adapter_spec(folders[0])
    for folder in folders[1:]:
        if (other := read_adapter_spec(folder)) != first:
            raise UserError(
                f"the adapters in {folders[0]} and {folder} do not fit together: {describe_difference(first, other)}. "
                "Set --peft to adapters that were trained with the same rank, alpha and targets"
            )
    return first


def describe_difference(first: LoraSpec, other: LoraSpec) -> str:
    """Return what differs between two kinds of adapters, in words."""
    for name, ours, theirs in (("ranks", first.rank, other.rank), ("alphas", first.alpha, other.alpha)):
        if ours != theirs:
            return f"their {name} are {ours:g} and {theirs:g}"
    differing = sorted({*first.targets} ^ {*other.targets})
    return f"only one of them adapts {differing[0]} ({len(differing)} layers differ)"


def read_adapter_spec(folder: Path) -> LoraSpec:
    """Return the rank, alpha and layers of the adapter in a folder; the layers come from the file of its weights.

    Raises:
        UserError: A file is missing or damaged, or the adapter is more than the product of two matrices.
    """
    config = read_config(folder)
    if (kind := config.get("peft_type")) != "LORA":
        raise UserError(f"{folder} holds an adapter of the type {kind}. Only LORA can be imported; exclude this folder")
    refused = {
        name: value
        for name, value in config.items()
        if name not in HARMLESS and value and value != PLAIN.get(name)  # settings of later versions are refused, too
    }
    if config.get("init_lora_weights", True) not in PLAIN_INITIALIZATIONS:
        refused["init_lora_weights"] = config["init_lora_weights"]
    if refused:
        name, value = next(iter(refused.items()))
        raise UserError(
            f"{folder} has {name}={value} in {CONFIG_NAME}, so its adapter is more than the product of two matrices "
            "with one rank. Train it with the default of this setting, or exclude this folder"
        )
    tensors = read_adapter(folder)
    ranks = {len(tensor) for name, tensor in tensors.items() if ".lora_A." in name}
    if ranks != {config.get("r")}:
        raise UserError(
            f"{folder} has r={config.get('r')} in {CONFIG_NAME}, but matrices of rank {', '.join(map(str, ranks))}. "
            "Exclude this folder, or save the adapter again"
        )
    alpha = config.get("lora_alpha")
    if not isinstance(alpha, int | float):
        raise UserError(
            f"{folder} has lora_alpha={alpha} in {CONFIG_NAME}, expected a number. Exclude this folder, or save the "
            "adapter again"
        )
    rank = int(config["r"])
    layers = [name.partition(".lora_A.")[0] for name in tensors if ".lora_A." in name]
    # Rank-stabilized LoRA divides alpha by √rank instead of the rank (Kalajdzievski 2023).
    return LoraSpec(rank, float(alpha * rank**0.5 if config.get("use_rslora") else alpha), sorted(layers))


def read_config(folder: Path) -> Mapping[str, Any]:
    """Return the content of adapter_config.json.

    Raises:
        UserError: The file is missing or damaged.
    """
    path = folder / CONFIG_NAME
    if not path.is_file():
        raise UserError(f"{path} not found. Set --peft to folders that peft's save_pretrained wrote")
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}). Save the adapter again") from error
    if not isinstance(config, Mapping):
        raise UserError(f"{path} holds no settings. Save the adapter again")
    return config


def read_adapter(folder: Path) -> dict[str, Tensor]:
    """Return A and B of every layer, under the names that they have in a network of `add_adapters`.

    Raises:
        UserError: The file is missing, damaged, a pickle, or holds something else.
    """
    path = folder / WEIGHTS_NAME
    if not path.is_file():
        if (folder / PICKLE_NAME).is_file():
            raise UserError(
                f"{folder / PICKLE_NAME} is a pickle, which can run code when it is read. Save the adapter as "
                "safetensors, with save_pretrained(FOLDER, safe_serialization=True)"
            )
        raise UserError(f"{path} not found. Set --peft to folders that peft's save_pretrained wrote")
    tensors = {}
    for name, tensor in load_safetensors(path).items():
        if not name.endswith((A_NAME, B_NAME)):
            raise UserError(
                f"{path} holds {name}, which is neither A nor B of a linear layer. Exclude this folder, or train the "
                "adapter without it"
            )
        tensors[f"{name.removeprefix(PREFIX).removesuffix('weight')}{ADAPTER}.weight"] = tensor
    if not tensors:
        raise UserError(f"{path} holds no adapter. Save the adapter again")
    return tensors
