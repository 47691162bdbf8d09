"""Reading state dicts that other programs saved, without running code from the files."""

import argparse
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from core.runtime.errors import UserError

SUFFIXES = (".safetensors", ".pth", ".pt", ".pth.tar", ".ckpt", ".bin")
WRAPPERS = ("state_dict", "model", "model_state_dict")  # keys under which training programs store a state dict
PREFIXES = ("module.", "model.", "_orig_mod.")  # DataParallel, Lightning and torch.compile add these
REPLACE_OR_EXCLUDE = "Replace this file with an intact copy, or exclude it with --files PATTERN"


def list_state_files(folder: Path, pattern: str = "*") -> list[Path]:
    """Return the files of `folder` that may hold a state dict, in natural order (epoch2 before epoch10).

    Raises:
        UserError: The folder does not exist, or holds fewer than two of these files.
    """
    if not folder.is_dir():
        raise UserError(f"--dir {folder}: folder not found. Set --dir to the folder that holds the state dicts")
    found = sorted(
        (path for path in folder.glob(pattern) if path.is_file() and path.name.endswith(SUFFIXES)), key=split_numbers
    )
    if len(found) < 2:
        raise UserError(
            f"--dir {folder} holds {len(found)} files {pattern} with one of the endings {', '.join(SUFFIXES)}, but at "
            "least 2 checkpoints are needed. Set --dir or --files PATTERN to match more files"
        )
    return found


def split_numbers(path: Path) -> list[str | int]:
    """Return a sort key that puts epoch2 before epoch10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path.name)]


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the tensors of one state dict, without the dictionaries that training programs wrap around it.

    Raises:
        UserError: The file is damaged, holds no state dict, or cannot be read without running code.
    """
    content = unwrap(load_safetensors(path) if path.suffix == ".safetensors" else load_pickle(path))
    if isinstance(content, Mapping):
        tensors = {name: tensor for name, tensor in content.items() if isinstance(tensor, Tensor)}
        held = f"the entries {', '.join(map(str, list(content)[:5]))}"
    else:
        tensors, held = {}, f"a {type(content).__name__}"
    if not tensors:
        raise UserError(
            f"{path} holds no state dict but {held}. Save the weights with torch.save(model.state_dict(), FILE)"
        )
    return tensors


def load_safetensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file; raises `UserError` if it is damaged."""
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged or not a safetensors file ({error}). {REPLACE_OR_EXCLUDE}") from error


def load_pickle(path: Path) -> Any:
    """Return the content of a file of `torch.save`, read without running code from it.

    Raises:
        UserError: The file cannot be read without running code, or is damaged.
    """
    try:
        # timm's training program stores its command line as an `argparse.Namespace`, which is plain data.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds of errors for damaged files
        if code := re.search(r"GLOBAL (\S+)", str(error)):
            raise UserError(
                f"{path} is a pickle that needs code to be read ({code[1]}), and code from a file is never run. Save "
                "the weights alone with torch.save(model.state_dict(), FILE), or as safetensors"
            ) from error
        reason = " ".join(str(error).split())[:150] or type(error).__name__
        raise UserError(f"{path} is damaged or not a file of torch.save ({reason}). {REPLACE_OR_EXCLUDE}") from error


def unwrap(content: Any) -> Any:
    """Return the innermost content of nested dictionaries such as {"state_dict": …} or {"model": …}."""
    if isinstance(content, Mapping):
        for key in WRAPPERS:
            if isinstance(content.get(key), Mapping):
                return unwrap(content[key])
    return content


def rename_entries(state: Mapping[str, Tensor], known: Collection[str], path: Path) -> dict[str, Tensor]:
    """Return `state` under the network's own names, without the prefixes that other programs add.

    Args:
        state: The state dict.
        known: The names of the network's entries.
        path: The file of the state dict, named in the error.

    Raises:
        UserError: Two names are the same without their prefixes.
    """
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if (stripped := strip_prefixes(name, known)) in renamed:
            raise UserError(
                f"{path} holds the entry {stripped} twice, with and without a prefix (as {name}). Remove one of them "
                "from the state dict and save it again"
            )
        renamed[stripped] = tensor
    return renamed


def strip_prefixes(name: str, known: Collection[str]) -> str:
    """Return `name` without the prefixes of DataParallel, Lightning and torch.compile, if that gives a known name."""
    stripped = name
    while stripped not in known:
        prefix = next((prefix for prefix in PREFIXES if stripped.startswith(prefix)), None)
        if prefix is None:
            compiled_inside = stripped.replace("_orig_mod.", "")
            return compiled_inside if compiled_inside in known else name
        stripped = stripped.removeprefix(prefix)
    return stripped
