"""Arrays in npz files, read without running code from them."""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from core.runtime.errors import UserError


@contextmanager
def reading_arrays(path: Path, *, content: str, advice: str) -> Iterator[np.lib.npyio.NpzFile]:
    """Open an npz file for the block.

    Args:
        path: of the file.
        content: what the file holds, as the error names it.
        advice: what to do where the file cannot be read.

    Raises:
        UserError: the file is missing or damaged, or the block asks for an array that it lacks.
    """
    if not path.is_file():
        raise UserError(f"there are no {content} in {path}; {advice}")
    try:
        with np.load(path, allow_pickle=False) as file:
            yield file
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, TypeError) as error:
        # A file that holds one plain array cannot be entered as a context, which is a TypeError.
        raise UserError(f"cannot read the {content} in {path} ({error}); {advice}") from error
