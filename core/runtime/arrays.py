"""Reading and writing of npz files with a hash of each array, without running code from them."""

import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from core.runtime.artifacts import replace_atomically
from core.runtime.content_hash import hash_array
from core.runtime.errors import UserError

# A further array of each file holds the hashes of the other arrays by their names, as JSON. It is the first array,
# because damage to the table of contents can hide the arrays at its end.
HASHES = "sha256"
UNREADABLE = (OSError, ValueError, KeyError, EOFError, TypeError, RuntimeError, zipfile.BadZipFile, zlib.error)


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays and their hashes as one npz file.

    Raises:
        UserError: The file cannot be written.
    """
    hashes = np.array(json.dumps({name: hash_array(array) for name, array in arrays.items()}))
    with replace_atomically(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **{HASHES: hashes, **arrays})  # type: ignore[arg-type]  # No array is named like an option.


@contextmanager
def open_arrays(path: Path, *, content: str, advice: str) -> Iterator[Mapping[str, np.ndarray]]:
    """Yield the arrays of an npz file, after checking their hashes.

    Files of earlier versions have no hashes and are not checked.

    Args:
        path: The npz file.
        content: Name of the content, such as "scores", for errors.
        advice: What to do if the file cannot be read, as the second sentence of errors.

    Raises:
        UserError: The file is missing, damaged or changed, or the block reads an array that is not in the file.
    """
    if not path.is_file():
        raise UserError(f"cannot read the {content} because {path} does not exist. {advice}")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        if HASHES in arrays:
            check_hashes(arrays, dict(json.loads(str(arrays.pop(HASHES)))))
        yield arrays
    except UNREADABLE as error:
        # A TypeError means an npy file, for which np.load returns a plain array. A RuntimeError means that damage makes
        # the archive look encrypted, or compressed in an unknown way.
        raise UserError(f"cannot read the {content} in {path} ({error}). {advice}") from error


def check_hashes(arrays: Mapping[str, np.ndarray], hashes: Mapping[str, str]) -> None:
    """Check that each array has the content that was written.

    Raises:
        ValueError: An array was changed, removed or added.
    """
    for name in sorted(arrays.keys() | hashes.keys()):
        if name not in arrays or hash_array(arrays[name]) != hashes.get(name):
            raise ValueError(f"array {name} does not have the content that was written")
