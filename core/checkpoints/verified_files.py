"""A memory of files whose content was checked, so that large files are not read again before each use."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from core.runtime.artifacts import read_json, write_json
from core.runtime.errors import UserError


class VerifiedFiles:
    """The files of one zoo, and a hidden JSON file that says in which state their content was last checked.

    A file counts as unchanged if its size, its time of change in nanoseconds and its expected hash are the same as at
    the check. In a folder that cannot be written to nothing is remembered, and the check simply runs each time.

    Args:
        index: The checkpoints file, beside which the memory lies as ".<name>.verified.json".
        hashes: The expected hash of each file of the zoo.
    """

    def __init__(self, index: Path, hashes: Mapping[Path, str]):
        self._memory = index.with_name(f".{index.name}.verified.json")
        self._hashes = hashes
        self._now = self._describe()  # before the check, so that a change during the check is noticed next time

    def _describe(self) -> dict[str, dict[str, Any]]:
        described = {}
        for path, expected in self._hashes.items():
            facts = path.stat()
            described[path.name] = {"size": facts.st_size, "mtime_ns": facts.st_mtime_ns, "sha256": expected}
        return described

    def are_unchanged(self) -> bool:
        """Return whether all files are as they were when they were last checked."""
        with suppress(UserError):
            return self._memory.is_file() and bool(read_json(self._memory) == self._now)
        return False

    def remember(self) -> None:
        """Note that the content of all files was checked."""
        with suppress(UserError):
            write_json(self._memory, self._now)
