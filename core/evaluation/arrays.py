"""Reading of npz files without running code from them."""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from core.runtime.errors import UserError


@contextmanager
def open_arrays(path: Path, *, content: str, advice: str) -> Iterator[np.lib.npyio.NpzFile]:
    """Open an npz file for the duration of a `with` block.

    Args:
        path: The npz file.
        content: Name of the content, such as "scores", for errors.
        advice: What to do if the file cannot be read, as the second sentence of errors.

    Raises:
        UserError: The file is missing or damaged, or the block reads an array that is not in the file.
    """
    if not path.is_file():
        raise UserError(f"cannot read the {content} because {path} does not exist. {advice}")
    try:
        with np.load(path, allow_pickle=False) as file:
            yield file
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, TypeError) as error:
        # np.load returns a plain array for an npy file, and using an array as a context raises a TypeError.
        raise UserError(f"cannot read the {content} in {path} ({error}). {advice}") from error
