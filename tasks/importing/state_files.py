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


def state_files(folder: Path, pattern: str = "*") -> list[Path]:
    """The files of `folder` that may hold a state dict, in natural order.

    Raises:
        UserError: no such folder, or fewer than two such files in it.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; give with --dir the one that holds the state dicts")
    found = sorted(
        (path for path in folder.glob(pattern) if path.is_file() and path.name.endswith(SUFFIXES)), key=natural
    )
    if len(found) < 2:
        raise UserError(
            f"{folder} holds {len(found)} files {pattern} that end in {', '.join(SUFFIXES)}; a distribution needs at least 2 checkpoints"
        )
    return found


def natural(path: Path) -> list[str | int]:
    """A sort key that puts epoch2 before epoch10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path.name)]


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of one state dict, taken out of whatever a training program wrapped it in.

    Raises:
        UserError: missing or damaged, no state dict, or a pickle that needs code.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    content = unwrapped(load_safetensors(path) if path.suffix == ".safetensors" else load_pickle(path))
    tensors = (
        {name: tensor for name, tensor in content.items() if isinstance(tensor, Tensor)}
        if isinstance(content, Mapping)
        else {}
    )
    if not tensors:
        held = (
            f"the entries {', '.join(map(str, list(content)[:5]))}"
            if isinstance(content, Mapping)
            else f"a {type(content).__name__}"
        )
        raise UserError(
            f"{path} holds no state dict but {held}; save the weights with torch.save(model.state_dict(), FILE)"
        )
    return tensors


def load_safetensors(path: Path) -> dict[str, Tensor]:
    """Raises `UserError` if the file is damaged."""
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged or no safetensors file ({error})") from error


def load_pickle(path: Path) -> Any:
    """What `torch.load` reads without code; timm's training leaves its command line in the file, which is plain data.

    Raises:
        UserError: the file needs code, or is damaged.
    """
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (
        Exception
    ) as error:  # torch raises many kinds for damaged files, and its own pickle error for those that need code
        if code := re.search(r"GLOBAL (\S+)", str(error)):
            raise UserError(
                f"{path} is a pickle that needs code ({code[1]}) to be read, which is never run here; save the weights alone with "
                "torch.save(model.state_dict(), FILE), or as safetensors"
            ) from error
        raise UserError(
            f"{path} is damaged or no file of torch.save ({' '.join(str(error).split())[:150] or type(error).__name__})"
        ) from error


def unwrapped(content: Any) -> Any:
    """The innermost of nested {"state_dict": …} or {"model": …}."""
    while (
        isinstance(content, Mapping)
        and (inner := next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), None))
        is not None
    ):
        content = inner
    return content


def renamed(state: Mapping[str, Tensor], known: Collection[str], path: Path) -> dict[str, Tensor]:
    """`state` under the names of the network: each name loses its prefixes until it is known.

    Raises:
        UserError: two names become one.
    """
    result: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if (own := without_prefixes(name, known)) in result:
            raise UserError(f"{path} holds {own} twice, as {name} and without its prefix; keep one of them")
        result[own] = tensor
    return result


def without_prefixes(name: str, known: Collection[str]) -> str:
    """`name` without what DataParallel, Lightning and torch.compile put before it, if that makes it known; else as it is."""
    stripped = name
    while stripped not in known:
        prefix = next((prefix for prefix in PREFIXES if stripped.startswith(prefix)), None)
        if prefix is None:
            compiled_inside = stripped.replace("_orig_mod.", "")
            return compiled_inside if compiled_inside in known else name
        stripped = stripped.removeprefix(prefix)
    return stripped
