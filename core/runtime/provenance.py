"""Provenance of a result: command, commit, library versions and machine."""

import importlib.metadata
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "pytorch-lightning",
    "hydra-core",
    "diffusers",
    "safetensors",
    "numpy",
    "scikit-learn",
)


def read_git_state() -> dict[str, Any]:
    """Return the commit of this code and whether tracked files have changes; empty outside a git checkout."""
    try:
        commit, status = (
            subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
            for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        )
    except (OSError, subprocess.CalledProcessError):
        return {}
    return {"commit": commit, "dirty": bool(status)}


def read_library_versions() -> dict[str, str]:
    """Return the installed versions of the libraries that results depend on."""
    return {package: importlib.metadata.version(package) for package in PACKAGES}


def collect_provenance() -> dict[str, Any]:
    """Return command, commit, library versions and machine of this process as values that fit into JSON."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "git": read_git_state(),
        "python": platform.python_version(),
        "versions": read_library_versions(),
        "device": device,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
