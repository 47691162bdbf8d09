"""The part that trains the last norm layers of ViT-Base at 224×224 with random weights, and scores vectors of them."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from pytorch_lightning import Callback, Trainer

from core.runtime.trainer import MakeTrainer
from scripts.benchmark.contest import read_peak, reset_peak
from scripts.gpu_check.findings import NEEDS_GPU, Findings
from scripts.gpu_check.packages import ROOT
from scripts.gpu_check.scoring import compare_precisions
from scripts.gpu_check.subjects import Classified, make_vit_base
from scripts.gpu_check.timing import TRAINER_PRECISIONS, Clock, Window, configure_trainer
from tasks.collecting.collection import TrainedNetworks
from tasks.specification import TaskSpec

NUM_MODELS, NUM_IMAGES = 50, 1024
FULL, TINY = (5, 20), (1, 2)  # steps of the warm-up, steps measured


def run(findings: Findings, device: torch.device, rehearse: bool) -> None:
    """Collect checkpoints in each precision, then score vectors in each precision."""
    subject = make_vit_base(rehearse, NUM_MODELS, NUM_IMAGES)
    warmup, steps = TINY if rehearse else FULL
    batch_size = 8 if rehearse else 128
    task = specify_task(warmup + steps + 1, batch_size)
    rows: list[dict[str, Any]] = []
    for precision in TRAINER_PRECISIONS:
        if device.type == "cpu" and precision == "bf16-mixed":
            rows.append({"precision": precision, "ms per step": NEEDS_GPU})
        else:
            measured = findings.attempt(
                f"training, {precision}", collect, subject, task, (warmup, steps), device=device, precision=precision
            )
            rows.append(measured or {"precision": precision, "ms per step": "failed"})
        size = subject.image_size
        findings.add_table(f"training two norms of ViT-Base at {size}×{size}, batch {batch_size}", rows)
    compare_precisions(findings, "ViT-Base", subject, device=device, goals_s={})


def specify_task(num_steps: int, batch_size: int) -> TaskSpec:
    """Return the task of experiment=cifar100_vit_base with one checkpoint per step."""
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        sizes = [f"task.param.k={num_steps}", "task.collect.held_out=0", f"task.collect.batch_size={batch_size}"]
        cfg = compose("base", overrides=["experiment=cifar100_vit_base", *sizes])
    config: Any = OmegaConf.to_container(cfg.task, resolve=True)
    return TaskSpec.from_config(config)


def collect(
    subject: Classified, task: TaskSpec, window: tuple[int, int], *, device: torch.device, precision: str
) -> dict[str, Any]:
    """Train the last norm layers as collecting does; return step time, images per second and peak memory in a row."""
    clock = Clock(device)
    make_trainer = add_callback(configure_trainer(device, precision), Window(*window, clock))
    before = reset_peak(device)
    model = subject.model.cpu()
    with tempfile.TemporaryDirectory() as folder:
        task.collect.collect_vectors(
            TrainedNetworks(model, subject.subset),
            subject.data,
            k=task.param.k,
            seed=task.seed,
            num_workers=task.data.num_workers,
            state_dir=Path(folder) / "training_state",
            make_trainer=make_trainer,
        )
    per_step = clock.seconds / window[1]
    return {
        "precision": precision,
        "ms per step": 1000 * per_step,
        "images per second": task.last_optimization.batch_size / per_step,
        "peak, MB": None if before is None else max(0, read_peak(device) - before) / 1e6,
    }


def add_callback(make_trainer: MakeTrainer, callback: Callback) -> MakeTrainer:
    """Return a Trainer factory that adds `callback` to every Trainer."""

    def make(*, callbacks: list[Callback], **options: Any) -> Trainer:
        return make_trainer(callbacks=[*callbacks, callback], **options)

    return make
