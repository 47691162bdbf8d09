"""The loops in which the pipeline spends its time, each switching a meter on once it is warm."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from scripts.benchmark.sampling import generator_with
from scripts.gpu_check.scoring import scorer_of
from scripts.gpu_check.subjects import STAGES, resnet18
from scripts.gpu_check.timing import Meter, Window, fit_stage
from tasks.scoring.scorer import ScoringSpec
from tasks.task import Task
from tasks.training.finetuning import finetune


@dataclass(frozen=True)
class Loop:
    """One loop: `run` takes the meter, which measures `units` of work."""

    name: str
    unit: str
    units: int
    run: Callable[[Meter], None]


def training_loops(device: torch.device, rehearse: bool) -> list[Loop]:
    """Return the steps of both stages under Lightning, in TF32."""
    warmup, steps, total = (2, 3, 6) if rehearse else (50, 40, 500)

    def fit_with(name: str, meter: Meter) -> None:
        fit_stage(STAGES[name](rehearse, num_steps=total), Window(warmup, steps, meter), device, precision="tf32")

    return [Loop(f"{name} step", "step", steps, partial(fit_with, name)) for name in STAGES]


def sampling_loop(device: torch.device, rehearse: bool) -> list[Loop]:
    """Return the steps of DPM-Solver for 200 models in fp32, with the paper's networks."""
    networks, num_models = (("small", "mlp"), 4) if rehearse else (("paper", "conv"), 200)
    generator = generator_with(*networks, "dpm_solver", device=device)
    run = partial(warm, lambda: generator.sample(0, range(num_models)))
    return [Loop(f"sampling {num_models} models", "sampler step", generator.recipes["sampler"]["num_steps"], run)]


def scoring_loop(device: torch.device, rehearse: bool) -> list[Loop]:
    """Return the scoring of ResNet-18 with its frozen part kept, on a GPU in TF32."""
    subject = resnet18(rehearse, num_models=20)
    scorer = scorer_of(subject, "fp32" if device.type == "cpu" else "tf32", device)
    return [Loop("scoring", "model", len(subject.vectors_MD), partial(warm, lambda: scorer(subject.vectors_MD)))]


def finetuning_loop(device: torch.device, rehearse: bool) -> list[Loop]:
    """Return the steps of training ResNet-18 on from a few vectors."""
    num_steps, batch_size = (2, 8) if rehearse else (5, 128)
    subject = resnet18(rehearse, num_models=9, num_images=2048)
    scoring = ScoringSpec(num_workers="auto", device=device)
    task = Task(subject.data, subject.model, subject.subset, scoring=scoring)

    def tune(meter: Meter) -> None:
        models = count(1)

        def make_optimizer(parameters: Iterable[Tensor]) -> Optimizer:
            if next(models) == 2:  # the network is traced once, for the first model
                meter.begin()
            return torch.optim.AdamW(parameters, lr=0.03)

        options = {"batch_size": batch_size, "num_steps": num_steps, "seed": 0}
        finetune(subject.vectors_MD, task, make_optimizer=make_optimizer, **options)
        meter.end()

    return [Loop("finetuning", "step", num_steps * (len(subject.vectors_MD) - 1), tune)]


def warm(run: Callable[[], Any], meter: Meter) -> None:
    """Run once for the warm-up and once under the meter."""
    run()
    meter.begin()
    run()
    meter.end()


MAKERS = (training_loops, sampling_loop, scoring_loop, finetuning_loop)
