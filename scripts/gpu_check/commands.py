"""Runs of the two entry points as a user calls them, each in a process that records its peak of memory."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.report.source_table import format_source_table
from core.runtime.artifacts import read_json
from scripts.gpu_check.findings import Findings
from scripts.gpu_check.packages import ROOT

TINY = (  # overrides for a rehearsal, which only shows that both commands run
    "trainer=cpu", "task.epochs=1", "task.param.k=6", "system.autoencoder_steps=6", "system.diffusion_steps=6",
    "generation.num_models=5", "evaluation.num_baselines=3",
)  # fmt: skip


def run_both(folder: Path, overrides: Sequence[str]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Run task_training.py and train_p_diff.py in `folder`; return metrics.json and one row per command.

    Raises:
        RuntimeError: A command failed. The log holds its output.
    """
    paths = [f"task.param.path={folder}/checkpoints.safetensors", f"output_dir={folder}/run"]
    rows = [run_watched(script, [*paths, *overrides], folder) for script in ("task_training.py", "train_p_diff.py")]
    return read_json(folder / "run/metrics.json"), rows


def run_watched(script: str, overrides: Sequence[str], folder: Path) -> dict[str, Any]:
    """Run one entry point to its end; return a row with its seconds and its peaks of memory."""
    record = folder / f"{script}.json"
    command = [sys.executable, "-m", "scripts.gpu_check.watched", str(record), str(ROOT / script), *overrides]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
    }
    status = subprocess.run(command, cwd=folder, env=environment).returncode
    if status != 0:
        raise RuntimeError(f"{script} ended with status {status}. Read its output in the log of this part")
    watched = read_json(record)
    return {
        "command": script,
        "seconds": watched["seconds"],
        "peak of the GPU, MB": None if watched["gpu_bytes"] is None else watched["gpu_bytes"] / 1e6,
        "peak of the process, MB": watched["process_bytes"] / 1e6,
    }


def report_run(findings: Findings, metrics: dict[str, Any], commands: list[dict[str, Any]]) -> None:
    """Add three tables of a run: accuracies, seconds of each stage, time and memory of each command."""
    findings.add_text("accuracy", format_source_table(metrics))
    findings.add_table(
        "seconds of each stage",
        [{"stage": stage, "seconds": float(seconds)} for stage, seconds in metrics["seconds"].items()],
    )
    findings.add_table("commands, including the start of Python", commands)
