"""Loops in which the pipeline spends its time; each one switches a meter on after its warm-up."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from scripts.benchmark.sampling import make_generator
from scripts.gpu_check.scoring import make_scorer
from scripts.gpu_check.subjects import STAGES, make_resnet18
from scripts.gpu_check.timing import Meter, Window, fit_stage
from tasks.scoring.scorer import ScoringSpec
from tasks.task import Task
from tasks.training.finetuning import finetune


@dataclass(frozen=True)
class Loop:
    """One loop: `run` takes a meter and does `units` units of work while the meter is on."""

    name: str
    unit: str
    units: int
    run: Callable[[Meter], None]


def make_training_loops(device: torch.device, rehearse: bool) -> list[Loop]:
    """Return one loop per stage: training steps under Lightning, in TF32."""
    warmup, steps, total = (2, 3, 6) if rehearse else (50, 40, 500)

    def fit_with(name: str, meter: Meter) -> None:
        fit_stage(STAGES[name](rehearse, num_steps=total), Window(warmup, steps, meter), device, precision="tf32")

    return [Loop(f"{name} step", "step", steps, partial(fit_with, name)) for name in STAGES]


def make_sampling_loops(device: torch.device, rehearse: bool) -> list[Loop]:
    """Return the loop that samples 200 models with DPM-Solver in fp32, with the paper's networks."""
    networks, num_models = (("small", "mlp"), 4) if rehearse else (("paper", "conv"), 200)
    generator = make_generator(*networks, "dpm_solver", device=device)
    run = partial(measure_warm, lambda: generator.sample(0, range(num_models)))
    return [Loop(f"sampling {num_models} models", "sampler step", generator.recipes["sampler"]["num_steps"], run)]


def make_scoring_loops(device: torch.device, rehearse: bool) -> list[Loop]:
    """Return the loop that scores ResNet-18 with its frozen part cached, in TF32 on a GPU."""
    subject = make_resnet18(rehearse, num_models=20)
    scorer = make_scorer(subject, "fp32" if device.type == "cpu" else "tf32", device)
    run = partial(measure_warm, lambda: scorer(subject.vectors_MD))
    return [Loop("scoring", "model", len(subject.vectors_MD), run)]


def make_finetuning_loops(device: torch.device, rehearse: bool) -> list[Loop]:
    """Return the loop that fine-tunes ResNet-18 from a few vectors."""
    num_steps, batch_size = (2, 8) if rehearse else (5, 128)
    subject = make_resnet18(rehearse, num_models=9, num_images=2048)
    scoring = ScoringSpec(num_workers="auto", device=device)
    task = Task(subject.data, subject.model, subject.subset, scoring=scoring)

    def tune(meter: Meter) -> None:
        models = count(1)

        def make_optimizer(parameters: Iterable[Tensor]) -> Optimizer:
            if next(models) == 2:  # the first model is the warm-up, in which the network is traced
                meter.begin()
            return torch.optim.AdamW(parameters, lr=0.03)

        options = {"batch_size": batch_size, "num_steps": num_steps, "seed": 0}
        vectors_MD = subject.vectors_MD
        finetune(vectors_MD, task, make_optimizer=make_optimizer, states=[{}] * len(vectors_MD), **options)
        meter.end()

    return [Loop("finetuning", "step", num_steps * (len(subject.vectors_MD) - 1), tune)]


def measure_warm(run: Callable[[], Any], meter: Meter) -> None:
    """Call `run` once as a warm-up, then once while the meter is on."""
    run()
    meter.begin()
    run()
    meter.end()


MAKERS = (make_training_loops, make_sampling_loops, make_scoring_loops, make_finetuning_loops)
