"""Reading and writing of artifacts: safetensors, npz and JSON files, which run no code when they are read.

Each file is written under a temporary name and then renamed, so a crash never leaves a partial file.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from core.runtime.errors import UserError

FORMAT_VERSION = 1


@contextmanager
def replace_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` only if the block succeeds.

    Raises:
        UserError: The folder cannot be created or written to.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:  # safetensors reports a full disk as its own error
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot write {path} ({reason}). Free disk space or choose another folder") from error


def find_free_name(path: Path) -> Path:
    """Return the first of `path`.1, `path`.2, … that does not exist, to move `path` there."""
    number = 1
    while (free := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    return free


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON.

    Raises:
        UserError: The file cannot be written.
        ValueError: `content` holds NaN or infinity.
    """
    with replace_atomically(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        UserError: The file is missing or damaged.
    """
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot read {path} ({error}). Restore or delete the file, then run the command again"
        ) from error


def save_artifact(path: Path, kind: str, tensors: Mapping[str, Tensor], *, metadata: Mapping[str, Any]) -> None:
    """Write tensors and JSON metadata as one safetensors file.

    Args:
        path: The file to write.
        kind: The kind of artifact ("checkpoints", "generator", …), which `load_artifact` checks.
        tensors: The tensors by name, on any device.
        metadata: Values that fit into JSON.

    Raises:
        UserError: The file cannot be written.
    """
    header = {"kind": kind, "format_version": str(FORMAT_VERSION), "metadata": json.dumps(metadata, allow_nan=False)}
    with replace_atomically(path) as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary, header)


def load_artifact(path: Path, kind: str, hint: str = "Set another path") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors (by name) and the metadata that `save_artifact` wrote.

    Tensors are memory-mapped, so a large file is not read into memory at once.

    Args:
        path: The file to read.
        kind: The expected kind.
        hint: The advice that the error gives if the file is missing, as its second sentence.

    Raises:
        UserError: The file is missing or damaged, or it has another kind or an unknown format version.
    """
    if not path.is_file():
        raise UserError(f"{kind} file {path} not found. {hint}")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            found, version = header.get("kind"), header.get("format_version")
            if found != kind:
                raise UserError(
                    f"{path} is not a p-diff {kind} file (its kind is {found!r}). Set the path of another file"
                )
            if version != str(FORMAT_VERSION):
                raise UserError(
                    f"{path} has format version {version}, but this version of p-diff reads {FORMAT_VERSION}. "
                    "Create the file again"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, as `file` is no dict
            return tensors, json.loads(header["metadata"])
    except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as error:
        raise UserError(
            f"{path} is damaged or truncated ({error}). Restore the file, or delete it and create it again"
        ) from error
