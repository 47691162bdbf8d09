"""Files that are whole or absent, and that run no code when they are read.

Every artifact is a safetensors file (or npz, or JSON) written under a temporary name and renamed into place.
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
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, renamed to `path` only if the block succeeds.

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
    except (OSError, SafetensorError) as error:  # safetensors tells of a full disk in its own way
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot write {path} ({reason}); free some space or choose another folder") from error


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file; a damaged one is a `UserError` that names it."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}; restore or delete it and run again") from error


def save_artifact(path: Path, kind: str, tensors: Mapping[str, Tensor], *, metadata: Mapping[str, Any]) -> None:
    """Write tensors and JSON metadata as one safetensors file of the given kind ("checkpoints", "generator", …)."""
    header = {"kind": kind, "format_version": str(FORMAT_VERSION), "metadata": json.dumps(metadata, allow_nan=False)}
    with replacing(path) as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary, header)


def load_artifact(path: Path, kind: str, hint: str = "give another path") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_artifact` wrote: (tensors by name, metadata). Tensors are memory-mapped until touched.

    Args:
        path: The file.
        kind: The kind that it must have.
        hint: What to do where there is no file.

    Raises:
        UserError: The file is missing, damaged, of another kind or of an unknown format version.
    """
    if not path.is_file():
        raise UserError(f"there is no {kind} file at {path}; {hint}")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            found, version = header.get("kind"), header.get("format_version")
            if found != kind:
                raise UserError(f"{path} is not a p-diff {kind} file (it says kind={found!r}); point to another file")
            if version != str(FORMAT_VERSION):
                raise UserError(
                    f"{path} has format version {version}; this version of p-diff reads {FORMAT_VERSION}, "
                    "make the file again"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, as `file` is no dict
            return tensors, json.loads(header["metadata"])
    except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as error:
        raise UserError(
            f"{path} is damaged or truncated ({error}); restore it or delete it and make it again"
        ) from error
