"""A measured result as a file: the numbers, and the command, commit, versions, machine and code behind them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from core.runtime.artifacts import read_json, write_json
from core.runtime.errors import UserError
from core.runtime.provenance import ROOT
from core.runtime.source_code import digest_file

RESULTS = ROOT / "results"


@dataclass(frozen=True, kw_only=True)
class Result:
    """One results/*.json."""

    name: str
    command: str  # that repeats the measurement
    steps: Sequence[str]  # the commands that it ran
    provenance: Mapping[str, Any]  # commit, versions, machine and time, from `core.runtime.provenance`
    seconds: float
    code: Mapping[str, str]  # digest of each source file that the numbers depend on, by path
    data: Any

    def save(self) -> Path:
        """Write the file and return its path."""
        path = RESULTS / f"{self.name}.json"
        write_json(path, asdict(self))
        return path

    @classmethod
    def load(cls, name: str) -> "Result":
        """Read the result of this name.

        Raises:
            UserError: There is no such result, or the file is damaged.
        """
        path = RESULTS / f"{name}.json"
        if not path.is_file():
            raise UserError(f"{path.name} not found in results/. Run python -m scripts.measure {name} to make it.")
        try:
            return cls(**read_json(path))
        except TypeError as error:
            raise UserError(f"{path} is not a result ({error}). Run python -m scripts.measure {name} again.") from error

    def changed_files(self) -> list[str]:
        """Return the source files whose meaning has changed since the measurement, and new or deleted ones."""
        now = digest_files(self.code)
        return [name for name, digest in self.code.items() if now.get(name) != digest]


def digest_files(names: Iterable[str]) -> dict[str, str]:
    """Return the digest of each existing file by name."""
    return {name: digest_file(ROOT / name) for name in names if (ROOT / name).is_file()}
