"""Train the classifiers that checkpoints are taken of: one, or several from different seeds.

R trained networks · E epochs · D numbers in one flattened subset.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning.loggers import Logger
from torch import Tensor, nn

from core.checkpoints.subset import ParameterSubset, flatten, floating_entries, resolve_subset
from core.runtime.errors import UserError
from core.runtime.seeding import derive_seed
from core.runtime.trainer import MakeTrainer, fit
from tasks.collecting.classifier import Classifier, TrainingImages
from tasks.data.splits import ImageData
from tasks.networks.build import build_classifier

INDEPENDENT = "independent"
LARGEST_HISTORY = (
    100_000  # parameters: the history is for a figure, not worth a second copy of a whole network per epoch
)


def is_independent(task: DictConfig) -> bool:
    """Whether `task.collect=independent` was chosen, not steps."""
    return "runs" in task.collect


def untrained_classifier(task: DictConfig, data: ImageData, seed: int) -> nn.Module:
    """The network of `task.model` as `seed` initializes it."""
    torch.manual_seed(derive_seed(seed, "classifier/init"))
    return build_classifier(**task.model, **data.facts)


def train_classifier(
    task: DictConfig,
    model: nn.Module,
    data: ImageData,
    subset: ParameterSubset,
    *,
    name: str,
    seed: int,
    keep_history: bool,
    state_dir: Path,
    make_trainer: MakeTrainer,
    loggers: Sequence[Logger],
    label: str,
) -> tuple[float, Tensor | None]:
    """Train `model` in place for `task.epochs`, or take it from `state_dir`. Validation is watched, never selected on.

    With 0 epochs, for pretrained weights, the network stays as it is.

    Returns the seconds, and with `keep_history` the subset at the start of each epoch and at the end, (E + 1, D).
    """
    if task.epochs == 0:
        return 0.0, None
    module = Classifier(
        model,
        data.num_classes,
        make_optimizer=instantiate(task.optimizer),
        make_scheduler=instantiate(task.scheduler),
        seed=seed,
        history_of=subset if keep_history else None,
        num_epochs=task.epochs,
    )
    seconds = fit(
        module,
        TrainingImages(data, task.batch_size, seed, task.data.num_workers),
        name=name,
        label=label,
        state_dir=state_dir,
        make_trainer=make_trainer,
        loggers=loggers,
        max_epochs=task.epochs,
    )
    return seconds, getattr(module, "history_ED", None)


@dataclass(frozen=True)
class TrainedNetworks:
    """What training left: one network for `steps`, R for `independent`, of which the first is kept whole."""

    model: nn.Module
    subset: ParameterSubset
    last_RD: Tensor
    history_ED: Tensor | None
    seconds: float


def train_networks(
    task: DictConfig,
    data: ImageData,
    *,
    state_dir: Path,
    make_trainer: MakeTrainer,
    loggers: Sequence[Logger],
    label: str,
) -> TrainedNetworks:
    """Train every network that the checkpoints need; finished ones of an interrupted command are in `state_dir`.

    Raises:
        UserError: no such subset, or a part of the network for independent ones.
    """
    plan = [("classifier", task.seed)]
    if is_independent(task):
        plan = [
            (f"classifier_{index:03d}", derive_seed(task.seed, INDEPENDENT, index))
            for index in range(task.collect.runs)
        ]
    first = untrained_classifier(task, data, plan[0][1])
    subset = resolve_subset(first, task.param.subset, task.param.count)  # a wrong subset should not cost a training
    if is_independent(task) and subset.names != tuple(floating_entries(first)):
        raise UserError(
            f"task.collect=independent with task.param.subset={task.param.subset}: the rest of each network would be another one; give task.param.subset=all"
        )
    last_RD = torch.empty(len(plan), subset.num_params)
    seconds, histories = 0.0, []
    for index, (name, seed) in enumerate(plan):
        model = untrained_classifier(task, data, seed) if index else first
        took, history_ED = train_classifier(
            task,
            model,
            data,
            subset,
            name=name,
            seed=seed,
            keep_history=index == 0 and subset.num_params <= LARGEST_HISTORY,
            state_dir=state_dir,
            make_trainer=make_trainer,
            loggers=() if index else loggers,  # several networks would be one zigzag
            label=f"{label} {index + 1}/{len(plan)}" if len(plan) > 1 else label,
        )
        last_RD[index] = flatten(model, subset)
        seconds += took
        histories.append(history_ED)
    return TrainedNetworks(first.eval(), subset, last_RD, histories[0], round(seconds, 2))
