"""Reading and writing of artifacts: safetensors and JSON files, which run no code when they are read.

Each file is written under a temporary name and then renamed, so a crash never leaves a partial file. Each file holds
hashes of its content, so a file that was changed or damaged later is refused.
"""

import json
import os
import shutil
import socket
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from core.runtime.content_hash import hash_json, hash_tensor
from core.runtime.errors import UserError

FORMAT_VERSION = 1
HASH = "sha256"  # the name of the hash in JSON files and in headers
RESTORE = "Restore the file, or delete it and create it again"


@contextmanager
def replace_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` only if the block succeeds.

    The content reaches the disk before the rename, so `path` is whole even after a power failure. The temporary name
    holds host and process, so that what a killed process left of `path` is found and deleted.

    Raises:
        UserError: The folder cannot be created or written to.
    """
    temporary = path.with_name(f"{name_temporary_files(path)}{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        delete_leftovers(path)
        try:
            yield temporary
            temporary.chmod(0o666 & ~read_umask())  # safetensors gives files to their owner alone
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
            sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:  # safetensors reports a full disk as its own error
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot write {path} ({reason}). Free disk space or choose another folder") from error


def name_temporary_files(path: Path) -> str:
    """Return the start of the names of the temporary files of `path`, which end in the number of the process."""
    return f".{path.name}.{socket.gethostname()}."


def delete_leftovers(path: Path) -> None:
    """Delete the temporary files of `path` that processes of this host left when they were killed."""
    start = name_temporary_files(path)
    for file in path.parent.iterdir():
        process = file.name.removeprefix(start).removesuffix(".tmp")
        if file.name == f"{start}{process}.tmp" and process.isdecimal() and not is_running(int(process)):
            file.unlink(missing_ok=True)


def is_running(process: int) -> bool:
    """Return whether a process of this host runs; one of another user counts as running."""
    try:
        os.kill(process, 0)  # signal 0 is not sent, but checked
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def read_umask() -> int:
    """Return the permissions that new files of this process do not get."""
    os.umask(umask := os.umask(0))
    return umask


def sync_folder(folder: Path) -> None:
    """Make a rename in a folder survive a power failure, if the file system can open and flush folders."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name, replacing `target`; copy it if the file system has no hard links between the two."""
    target.unlink(missing_ok=True)  # Copying into a file that exists would change all files that are linked to it.
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def find_free_name(path: Path) -> Path:
    """Return the first of `path`.1, `path`.2, … that does not exist, to move `path` there."""
    number = 1
    while (free := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    return free


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON; the last entry of a mapping, `sha256`, is the hash of the other entries.

    Raises:
        UserError: The file cannot be written.
        ValueError: `content` holds NaN or infinity.
    """
    if isinstance(content, Mapping):
        plain = json.loads(json.dumps(content, allow_nan=False))  # with keys that are text, as in the file
        content = {**plain, HASH: hash_json(plain)}
    with replace_atomically(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file, and check and remove the hash that `write_json` added.

    Files without a hash, such as those of earlier versions, are not checked.

    Raises:
        UserError: The file is missing, damaged or changed.
    """
    try:
        content = json.loads(path.read_text())
        return remove_hash(content) if isinstance(content, dict) and content else content
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot read {path} ({error}). Restore or delete the file, then run the command again"
        ) from error


def remove_hash(content: dict[str, Any]) -> dict[str, Any]:
    """Return the content of a JSON file without its hash.

    Raises:
        ValueError: The content was changed.
    """
    name = HASH if HASH in content else list(content)[-1]
    rest = {key: value for key, value in content.items() if key != name}
    matches = content[name] == hash_json(rest)
    if name == HASH and not matches:
        raise ValueError(
            "its content was changed after it was written; if that was on purpose, remove its entry sha256"
        )
    # A file of an earlier version has no hash. If the last entry is the hash of the others, only its name was damaged.
    if name != HASH and matches:
        raise ValueError(f"the name of its hash was changed to {name}")
    return rest if name == HASH else content


@dataclass(frozen=True)
class Artifact:
    """The content of one safetensors file that `save_artifact` wrote."""

    path: Path
    version: int
    tensors: dict[str, Tensor]
    metadata: dict[str, Any]
    hashes: Mapping[str, str]  # the stored hash of each tensor by its name; empty in files without hashes

    def verify(self, name: str) -> None:
        """Check that the tensor `name` has the content that was written; a file without hashes passes unchecked.

        Raises:
            UserError: The tensor was changed.
        """
        if self.hashes and hash_tensor(self.tensors[name]) != self.hashes[name]:
            raise_damaged(self.path, f"tensor {name} does not have the content that was written")


def save_artifact(
    path: Path,
    kind: str,
    tensors: Mapping[str, Tensor],
    *,
    metadata: Mapping[str, Any],
    version: int = FORMAT_VERSION,
) -> None:
    """Write tensors, JSON metadata and their hashes as one safetensors file.

    The header of the file holds `hashes`, the SHA-256 of each tensor, and `sha256`, the hash of the rest of the header.

    Args:
        path: The file to write.
        kind: The kind of artifact ("checkpoints", "generator", …), which `load_artifact` checks.
        tensors: The tensors by name, on any device.
        metadata: Values that fit into JSON.
        version: The format version of this kind.

    Raises:
        UserError: The file cannot be written.
    """
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = {
        "kind": kind,
        "format_version": str(version),
        "metadata": json.dumps(metadata, allow_nan=False),
        "hashes": json.dumps({name: hash_tensor(tensor) for name, tensor in on_cpu.items()}),
    }
    header[HASH] = hash_json(header)
    with replace_atomically(path) as temporary:
        save_file(on_cpu, temporary, header)


def load_artifact(path: Path, kind: str, hint: str = "Set another path") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors (by name) and the metadata that `save_artifact` wrote, after checking their hashes.

    `open_artifact` explains the arguments and errors.
    """
    artifact = open_artifact(path, kind, hint)
    return artifact.tensors, artifact.metadata


def open_artifact(
    path: Path,
    kind: str,
    hint: str = "Set another path",
    *,
    unverified: Collection[str] = (),
    versions: Collection[int] = (FORMAT_VERSION,),
) -> Artifact:
    """Return the content of a file that `save_artifact` wrote, after checking its hashes.

    Tensors are memory-mapped, so a large file is not read into memory at once. Files of earlier versions have no
    hashes and are not checked.

    Args:
        path: The file to read.
        kind: The expected kind.
        hint: The advice that the error gives if the file is missing, as its second sentence.
        unverified: Names of tensors that the caller checks itself with `Artifact.verify`.
        versions: The format versions that the caller can read.

    Raises:
        UserError: The file is missing, damaged or changed, or it has another kind or an unknown format version.
    """
    if not path.is_file():
        raise UserError(f"{kind} file {path} not found. {hint}")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            check_header(path, header, kind, versions)
            artifact = Artifact(
                path,
                int(header["format_version"]),
                {name: file.get_tensor(name) for name in file.keys()},  # noqa: SIM118, as `file` is no dict
                json.loads(header["metadata"]),
                json.loads(header.get("hashes", "{}")),
            )
    except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is damaged or truncated ({error}). {RESTORE}") from error
    if artifact.hashes and (differing := artifact.hashes.keys() ^ artifact.tensors.keys()):
        raise_damaged(path, f"tensor {min(differing)} is missing or has another name than the one that was written")
    for name in artifact.tensors.keys() - set(unverified):
        artifact.verify(name)
    return artifact


def check_header(path: Path, header: Mapping[str, str], kind: str, versions: Collection[int]) -> None:
    """Check the hash of a header, and that the file has the expected kind and a known format version.

    Raises:
        UserError: The header was changed, or the file has another kind or format version.
    """
    rest = {name: text for name, text in header.items() if name != HASH}
    if (HASH in header or "hashes" in header) and header.get(HASH) != hash_json(rest):
        raise_damaged(path, "its header does not have the content that was written")
    found, version = header.get("kind"), header.get("format_version")
    if found != kind:
        raise UserError(f"{path} is not a p-diff {kind} file (its kind is {found!r}). Set the path of another file")
    if version not in {str(known) for known in versions}:
        raise UserError(
            f"{path} has format version {version}, but this version of p-diff reads "
            f"{' or '.join(map(str, versions))}. Create the file again"
        )


def raise_damaged(path: Path, problem: str) -> NoReturn:
    """Refuse an artifact whose content differs from what was written.

    Raises:
        UserError: Always; the message names the file and the problem.
    """
    raise UserError(f"{path} is damaged: {problem}. {RESTORE}")
