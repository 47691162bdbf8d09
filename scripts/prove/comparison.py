"""A comparison of two folders of results, file by file and number by number, apart from times and provenance."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from core.runtime.content_hash import hash_array, hash_tensor

# Files that say when, where and by whom a run was made, hold its locks, or only save time.
LEFT_OUT = re.compile(r"provenance\.json|\..*|tensorboard(/.*)?|.*/tensorboard/.*|.*\.log")
# Entries that hold times, and hashes of contents that hold them.
TIMES = {"seconds", "time", "sha256", "provenance"}
# Times in texts, such as "12 s", "3.5 min" and "2026-12-01", and the commit.
TIMES_IN_TEXT = re.compile(
    r"\d+(\.\d+)?\s*(s|min|h|ms|seconds|minutes)\b|\d{4}-\d{2}-\d{2}(T[\d:+]+)?|\b[0-9a-f]{7,40}\b"
)


@dataclass
class Comparison:
    """What was compared, and what differs."""

    files: int = 0
    numbers: int = 0
    differences: list[str] = field(default_factory=list)


def compare_folders(expected: Path, found: Path) -> Comparison:
    """Compare all files of two folders; every number has to be the same to the last digit.

    Training curves may repeat the steps after the last training state, so the last line of each step counts.
    """
    result = Comparison()
    names = [list_files(folder) for folder in (expected, found)]
    for name in sorted(names[0] ^ names[1]):
        result.differences.append(f"{name} is only in {expected if name in names[0] else found}")
    for name in sorted(names[0] & names[1]):
        first, second = (read_comparable(folder / name) for folder in (expected, found))
        result.files += 1
        result.numbers += count_numbers(expected / name, first)
        if first != second:
            result.differences.append(f"{name} differs{name_difference(first, second)}")
    return result


def list_files(folder: Path) -> set[str]:
    """Return the names of all files that are compared, relative to the folder."""
    names = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {
        name.as_posix() for name in names if not any(map(LEFT_OUT.fullmatch, (name.as_posix(), name.name, *name.parts)))
    }


def read_comparable(path: Path) -> Any:
    """Return the content of a file without times, with a hash in the place of each array."""
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            tensors = {name: hash_tensor(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118, as `file` is no dict
            header = file.metadata() or {}
        metadata = drop_times(json.loads(header.pop("metadata", "{}")))
        return {**tensors, "header": drop_times(header), "metadata": metadata}
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            return {name: hash_array(arrays[name]) for name in arrays.files if name not in TIMES}
    if path.suffix == ".json":
        return drop_times(json.loads(path.read_text()))
    if path.suffix == ".jsonl":
        return read_curves(path)
    if path.suffix in (".html", ".md", ".yaml", ".csv"):
        return TIMES_IN_TEXT.sub("…", path.read_text())
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_curves(path: Path) -> dict[str, Any]:
    """Return the last line of each stage, step and set of metrics; a line that a kill cut short is left out."""
    lines: dict[str, Any] = {}
    for line in path.read_text().splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        lines[f"{entry['stage']}, step {entry['step']}, {sorted(entry)}"] = entry
    return lines


def drop_times(content: Any) -> Any:
    """Return nested mappings and lists without the entries that hold times."""
    if isinstance(content, Mapping):
        return {name: drop_times(value) for name, value in content.items() if name not in TIMES}
    return [drop_times(value) for value in content] if isinstance(content, list) else content


def count_numbers(path: Path, content: Any) -> int:
    """Return how many numbers of a file were compared; 0 for texts and figures."""
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            return sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118, as `file` is no dict
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            return sum(arrays[name].size for name in content)
    if isinstance(content, Mapping):
        return sum(count_numbers(path, value) for value in content.values())
    if isinstance(content, list):
        return sum(count_numbers(path, value) for value in content)
    return int(isinstance(content, float | int) and not isinstance(content, bool))


def name_difference(first: Any, second: Any) -> str:
    """Return where two contents differ first, as the end of a sentence; empty if they are no mappings."""
    if not isinstance(first, Mapping) or not isinstance(second, Mapping):
        return ""
    for name in sorted(first.keys() | second.keys()):
        if name not in first or name not in second or first[name] != second[name]:
            return f" in {name}{name_difference(first.get(name), second.get(name))}"
    return ""
