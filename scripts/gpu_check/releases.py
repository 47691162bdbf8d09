"""The part that trains the systems of p-diff's two releases at full length, beside the default and `paper`, on digits.

All systems learn the same K = 200 checkpoints of a ResNet-18 (D = 2,048). docs/fidelity.md compares their settings.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from core.runtime.artifacts import read_json
from scripts.gpu_check.commands import TINY, run_watched
from scripts.gpu_check.findings import Findings

PAPER = ("system/autoencoder=paper", "system/denoiser=conv", "system/sampler=ddpm")
SYSTEMS: dict[str, Sequence[str]] = {
    "default": (),
    "paper": PAPER,
    "release1": ("system=release1",),
    "release2": ("system=release2",),
}
FEW_TIMESTEPS = ("system.schedule.num_timesteps=10", "system.sampler.num_steps=10")
NARROW = ("system.autoencoder.channels=[4,4]", "system.denoiser.channels=[4,8,4,1]", *FEW_TIMESTEPS)
TINY_SYSTEMS: dict[str, Sequence[str]] = {  # overrides for a rehearsal
    "default": (),
    "paper": NARROW,
    "release1": (
        "system.autoencoder.fold=3",
        "system.autoencoder.encoder_channels=[2,2]",
        "system.autoencoder.decoder_channels=[2,2]",
        "system.denoiser.channels=[4,8]",
        *FEW_TIMESTEPS,
    ),
    "release2": NARROW,
}


def run(findings: Findings, device: torch.device, rehearse: bool) -> None:
    """Collect checkpoints once, then train, sample and score each system, and add a row for it."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shared = [f"task.param.path={folder}/checkpoints.safetensors"]
        shared += [*TINY, "task.model.name=test_resnet"] if rehearse else []
        run_watched("task_training.py", shared, folder)
        for system, overrides in SYSTEMS.items():
            tiny = TINY_SYSTEMS[system] if rehearse else ()
            row = findings.attempt(system, measure, system, [*overrides, *shared, *tiny], folder)
            rows.append(row or {"system": system, "p_diff mean, %": "failed"})
            findings.add_table("systems of the two releases on digits", rows)


def measure(system: str, overrides: Sequence[str], folder: Path) -> dict[str, Any]:
    """Run train_p_diff.py with one system, and return its accuracy, its novelty and its seconds in a row."""
    command = run_watched("train_p_diff.py", [*overrides, f"output_dir={folder}/{system}"], folder)
    metrics = read_json(folder / system / "metrics.json")
    sources = {row["source"]: row for row in metrics["table"]}
    return {
        "system": system,
        "original mean, %": 100 * sources["original"]["accuracy_mean"],
        "ensemble, %": 100 * sources["ensemble"]["accuracy_mean"],
        "p_diff mean, %": 100 * sources["p_diff"]["accuracy_mean"],
        "p_diff best, %": 100 * sources["p_diff"]["accuracy_best"],
        "p_diff max IoU": sources["p_diff"]["max_iou_mean"],
        **{f"{stage}, s": float(metrics["seconds"][stage]) for stage in ("autoencoder", "diffusion", "generate")},
        "whole command, s": command["seconds"],
    }
