"""A measured result as a file: the numbers, and the command, commit, versions, machine and code behind them."""

import ast
import hashlib
import io
import tokenize
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from core.runtime.artifacts import read_json, write_json
from core.runtime.errors import UserError
from core.runtime.provenance import ROOT

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


def find_files(patterns: Iterable[str]) -> list[str]:
    """Return the paths, relative to the repository, that match any of the glob patterns, sorted.

    Raises:
        ValueError: A pattern matches nothing, so it is misspelled.
    """
    found: set[str] = set()
    for pattern in patterns:
        matches = {path.relative_to(ROOT).as_posix() for path in ROOT.glob(pattern) if path.is_file()}
        if not matches:
            raise ValueError(f"no file matches {pattern}")
        found |= matches
    return sorted(found)


def digest_files(names: Iterable[str]) -> dict[str, str]:
    """Return the digest of each existing file by name."""
    return {name: digest_file(ROOT / name) for name in names if (ROOT / name).is_file()}


def digest_file(path: Path) -> str:
    """Return 12 hexadecimal digits of the SHA-256 of what a source file means.

    Comments and docstrings of Python files, and comments of YAML files, do not count: rewording one changes no number.
    """
    text = path.read_text()
    if path.suffix == ".py":
        text = strip_texts(text)
    elif path.suffix == ".yaml":
        text = OmegaConf.to_yaml(OmegaConf.create(text))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def strip_texts(source: str) -> str:
    """Return Python source without comments, docstrings and blank lines."""
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and has_docstring(node):
            docstring = node.body[0]
            for row in range(docstring.lineno - 1, docstring.end_lineno or docstring.lineno):
                lines[row] = ""
    return "\n".join(line.rstrip() for line in lines if line.strip())


def has_docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Return whether the first statement of a definition is its docstring."""
    return ast.get_docstring(node, clean=False) is not None
