"""State dicts that other programs saved, read without running code from them."""

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
WRAPPERS = ("state_dict", "model", "model_state_dict")  # what training programs put a state dict under
PREFIXES = ("module.", "model.", "_orig_mod.")  # of DataParallel, Lightning, torch.compile


def list_state_files(folder: Path, pattern: str = "*") -> list[Path]:
    """Return the files of `folder` that may hold a state dict, in natural order.

    Raises:
        UserError: no such folder, or fewer than two such files in it.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; give with --dir the one that holds the state dicts")
    found = sorted(
        (path for path in folder.glob(pattern) if path.is_file() and path.name.endswith(SUFFIXES)), key=split_numbers
    )
    if len(found) < 2:
        raise UserError(
            f"{folder} holds {len(found)} files {pattern} that end in {', '.join(SUFFIXES)}; "
            "a distribution needs at least 2 checkpoints"
        )
    return found


def split_numbers(path: Path) -> list[str | int]:
    """Return a sort key that puts epoch2 before epoch10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path.name)]


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the tensors of one state dict, taken out of whatever a training program wrapped it in.

    Raises:
        UserError: missing or damaged, no state dict, or a pickle that needs code.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    content = unwrap(load_safetensors(path) if path.suffix == ".safetensors" else load_pickle(path))
    if isinstance(content, Mapping):
        tensors = {name: tensor for name, tensor in content.items() if isinstance(tensor, Tensor)}
        held = f"the entries {', '.join(map(str, list(content)[:5]))}"
    else:
        tensors, held = {}, f"a {type(content).__name__}"
    if not tensors:
        raise UserError(
            f"{path} holds no state dict but {held}; save the weights with torch.save(model.state_dict(), FILE)"
        )
    return tensors


def load_safetensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file; raises `UserError` if it is damaged."""
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged or no safetensors file ({error})") from error


def load_pickle(path: Path) -> Any:
    """Return what `torch.load` reads without code.

    timm's training leaves its command line in the file, which is plain data.

    Raises:
        UserError: the file needs code, or is damaged.
    """
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for damaged files, one of its own where code is needed
        if code := re.search(r"GLOBAL (\S+)", str(error)):
            raise UserError(
                f"{path} is a pickle that needs code ({code[1]}) to be read, which is never run here; save the weights "
                "alone with torch.save(model.state_dict(), FILE), or as safetensors"
            ) from error
        reason = " ".join(str(error).split())[:150] or type(error).__name__
        raise UserError(f"{path} is damaged or no file of torch.save ({reason})") from error


def unwrap(content: Any) -> Any:
    """Return the innermost of nested {"state_dict": …} or {"model": …}."""
    if isinstance(content, Mapping):
        for key in WRAPPERS:
            if isinstance(content.get(key), Mapping):
                return unwrap(content[key])
    return content


def rename_entries(state: Mapping[str, Tensor], known: Collection[str], path: Path) -> dict[str, Tensor]:
    """Return `state` under the names of the network: each name loses its prefixes until it is known.

    Raises:
        UserError: two names become one.
    """
    result: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if (own := strip_prefixes(name, known)) in result:
            raise UserError(f"{path} holds {own} twice, as {name} and without its prefix; keep one of them")
        result[own] = tensor
    return result


def strip_prefixes(name: str, known: Collection[str]) -> str:
    """Return `name` without what DataParallel, Lightning and torch.compile put before it, if that makes it known."""
    stripped = name
    while stripped not in known:
        prefix = next((prefix for prefix in PREFIXES if stripped.startswith(prefix)), None)
        if prefix is None:
            compiled_inside = stripped.replace("_orig_mod.", "")
            return compiled_inside if compiled_inside in known else name
        stripped = stripped.removeprefix(prefix)
    return stripped
