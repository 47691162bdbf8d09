"""Digests of source code, which tell whether a stored number was computed by other code.

Comments, docstrings and formatting do not count, because none of them changes a number.
"""

import ast
import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from core.runtime.provenance import ROOT


def digest_code(names: Iterable[str]) -> dict[str, str]:
    """Return the digest of each piece of this project's code by its name.

    Args:
        names: Glob patterns of files relative to the repository, such as "tasks/scoring/*.py", or one function or class
            of a file, such as "core/generation/baselines.py:noised". The digest of a function also covers the other
            definitions of its file that it uses.

    Raises:
        ValueError: A pattern matches no file, or a file has no such definition.
    """
    digests = {}
    for name in names:
        file, _, definition = name.partition(":")
        if definition:
            digests[name] = hash_text(normalize((ROOT / file).read_text(), definition))
        else:
            digests |= {found: digest_file(ROOT / found) for found in find_files([file])}
    return digests


def locate(definition: Callable[..., Any]) -> str:
    """Return the name of a function or class of this project for `digest_code`."""
    return f"{definition.__module__.replace('.', '/')}.py:{definition.__qualname__}"


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


def digest_file(path: Path) -> str:
    """Return 12 hexadecimal digits of the SHA-256 of the meaning of a source file.

    Comments, docstrings and the formatting of Python files do not count, and neither do comments of YAML files.
    """
    if path.suffix == ".py":
        return hash_text(normalize(path.read_text()))
    if path.suffix == ".yaml":
        return hash_text(OmegaConf.to_yaml(OmegaConf.load(path)))
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def hash_text(text: str) -> str:
    """Return 12 hexadecimal digits of the SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def normalize(source: str, definition: str | None = None) -> str:
    """Return Python source in one fixed format, without comments and docstrings.

    Args:
        source: The content of a file.
        definition: A function or class of the file; only its source is returned, with the statements of the file that
            it uses. None returns the whole file.

    Raises:
        ValueError: The file has no such definition.
    """
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and has_docstring(node):
            node.body[:1] = [] if len(node.body) > 1 or isinstance(node, ast.Module) else [ast.Pass()]
    if definition:
        tree.body = find_used_statements(tree, definition)
    return ast.unparse(tree)


def has_docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Return whether the first statement of a definition is its docstring."""
    return ast.get_docstring(node, clean=False) is not None


def find_used_statements(tree: ast.Module, definition: str) -> list[ast.stmt]:
    """Return the statement of a file that defines a name, and all statements of the file that it uses, in file order.

    Statements inside of functions and classes belong to the function or class. Of an import, only the names that are
    used count.

    Raises:
        ValueError: The file has no such definition.
    """
    statements = list(split_imports(tree.body))
    binding: dict[str, list[ast.stmt]] = {}
    for statement in statements:
        for name in list_bound_names(statement):
            binding.setdefault(name, []).append(statement)
    if definition not in binding:
        raise ValueError(f"the file has no function or class {definition}")
    used: set[ast.stmt] = set()
    wanted = [definition]
    while wanted:
        for statement in binding.get(wanted.pop(), []):  # a builtin or local name is bound by no statement of the file
            if statement not in used:
                used.add(statement)
                wanted += [node.id for node in ast.walk(statement) if isinstance(node, ast.Name)]
    return [statement for statement in statements if statement in used]


def split_imports(statements: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements, with each import of several names as one import per name."""
    for statement in statements:
        if isinstance(statement, ast.Import):
            yield from (ast.Import([alias]) for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            yield from (ast.ImportFrom(statement.module, [alias], statement.level) for alias in statement.names)
        else:
            yield statement


def list_bound_names(statement: ast.stmt) -> set[str]:
    """Return the names that a statement of a file defines."""
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return {statement.name}
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        return {alias.asname or alias.name.partition(".")[0] for alias in statement.names}
    stored = (node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))
    return set(stored)
