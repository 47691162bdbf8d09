"""The part that runs the paper's headline experiment on data shaped like CIFAR-100 and times each stage."""

import tempfile
import time
from pathlib import Path

import torch

from scripts.gpu_check.archives import write_cifar100
from scripts.gpu_check.commands import TINY, report_run, run_both
from scripts.gpu_check.findings import Findings

PER_CLASS, TEST_PER_CLASS = 500, 100  # the published sizes: 50,000 and 10,000 images
SMALL_PER_CLASS = 8
EPOCHS, STEPS, BATCH = 3, 1000, 200  # few epochs and steps, so that the part ends in minutes
# The share of wrong labels. Without them every model would be right everywhere, and a report could compare nothing.
WRONG_LABELS = 0.2
VAL_FRACTION = 0.1  # the value of configs/task/common.yaml


def run(findings: Findings, device: torch.device, rehearse: bool) -> None:
    """Write the images, run both commands on them and add their tables."""
    per_class, epochs = (SMALL_PER_CLASS, 1) if rehearse else (PER_CLASS, EPOCHS)
    with tempfile.TemporaryDirectory() as name:
        folder, start = Path(name), time.perf_counter()
        write_cifar100(folder / "data", per_class, 2 if rehearse else TEST_PER_CLASS, wrong_labels=WRONG_LABELS)
        writing = time.perf_counter() - start
        metrics, commands = run_both(folder, list_overrides(folder / "data", epochs, rehearse))
    report_run(findings, metrics, commands)
    images = 100 * round(per_class * (1 - VAL_FRACTION)) * epochs
    training = metrics["seconds"]["train_task"]
    findings.add_table(
        "training the classifier",
        [
            {
                "images": images,
                "seconds": float(training),
                "images per second": images / max(training, 1e-9),
                "seconds to write the archive": writing,
            }
        ],
    )


def list_overrides(root: Path, epochs: int, rehearse: bool) -> list[str]:
    """Return the overrides of the run: the networks of the experiment, or tiny networks for a rehearsal."""
    shared = [
        "experiment=cifar100_resnet18_k200",
        f"task.data.root={root}",
        "task.data.verify=false",
    ]
    if rehearse:
        small = [
            "task.model.name=resnet10t",
            "task.collect.batch_size=8",
            "system.autoencoder.channels=[4,4,4,4]",
            "system.denoiser.channels=[4,8,4,1]",
        ]
        return [
            *shared,
            *TINY,
            *small,
            "system.schedule.num_timesteps=10",
            "system.sampler.num_steps=10",
            "evaluation.num_train_images=20",
        ]
    sizes = [f"system.batch_size={BATCH}", f"system.autoencoder_steps={STEPS}", f"system.diffusion_steps={STEPS}"]
    return [*shared, *sizes, f"task.epochs={epochs}"]
