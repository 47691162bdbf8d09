"""Train the classifiers that checkpoints are taken of: one, or several from different seeds.

R trained networks · E epochs · D numbers in one flattened subset.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from pytorch_lightning.loggers import Logger
from torch import Tensor, nn

from core.checkpoints.subset import ParameterSubset, flatten, resolve_subset
from core.runtime.seeding import derive_seed
from core.runtime.stage_progress import StageProgress
from core.runtime.trainer import MakeTrainer, fit
from tasks.collecting.classifier import Classifier, TrainingImages
from tasks.collecting.collection import Planned, TrainedNetworks
from tasks.data.splits import ImageData
from tasks.networks.build import ModelSpec, build_for
from tasks.specification import TaskSpec

# Parameters: the history is for a figure, not worth a second copy of a whole network per epoch.
LARGEST_HISTORY = 100_000


def initialize_classifier(model: ModelSpec, data: ImageData, seed: int) -> nn.Module:
    """Return the network of `task.model` as `seed` initializes it."""
    torch.manual_seed(derive_seed(seed, "classifier/init"))
    return build_for(data.facts, model)


def train_classifier(
    model: nn.Module,
    task: TaskSpec,
    data: ImageData,
    *,
    planned: Planned,
    history_of: ParameterSubset | None,
    state_dir: Path,
    make_trainer: MakeTrainer,
    loggers: Sequence[Logger],
    progress: StageProgress | None,
) -> tuple[float, Tensor | None]:
    """Train `model` in place for `task.epochs`, or take it from `state_dir`. Validation is watched, never selected on.

    With 0 epochs, for pretrained weights, the network stays as it is.

    Returns:
        The seconds, and with `history_of` that subset at the start of each epoch and at the end, (E + 1, D).
    """
    if task.epochs == 0:
        return 0.0, None
    module = Classifier(
        model,
        data.num_classes,
        make_optimizer=task.make_optimizer,
        make_scheduler=task.make_scheduler,
        seed=planned.seed,
        history_of=history_of,
        num_epochs=task.epochs,
    )
    seconds = fit(
        module,
        TrainingImages(data, task.batch_size, seed=planned.seed, num_workers=task.data.num_workers),
        name=planned.name,
        state_dir=state_dir,
        make_trainer=make_trainer,
        progress=progress,
        loggers=loggers,
        max_epochs=task.epochs,
    )
    return seconds, getattr(module, "history_ED", None)


def train_networks(
    task: TaskSpec,
    data: ImageData,
    *,
    state_dir: Path,
    make_trainer: MakeTrainer,
    loggers: Sequence[Logger],
    progress: StageProgress | None = None,
) -> TrainedNetworks:
    """Train every network that the checkpoints need; finished ones of an interrupted command are in `state_dir`.

    Args:
        task: whose `collect` plans the networks.
        data: the images.
        state_dir: of training states and finished networks.
        make_trainer: Lightning's Trainer with the machine's options bound.
        loggers: of the first network; several would be one zigzag.
        progress: The progress of the stage; None shows nothing.

    Raises:
        UserError: there is no such subset, or it cannot be collected in this way.
    """
    plan = task.collect.plan_networks(task.seed)
    first = initialize_classifier(task.model, data, plan[0].seed)
    subset = resolve_subset(first, task.param.subset, task.param.count)  # a wrong subset should not cost a training
    task.collect.check_subset(subset, task.param.subset, first)
    last_RD = torch.empty(len(plan), subset.num_params)
    seconds, first_history_ED = 0.0, None
    progress = progress or StageProgress()
    for index, planned in enumerate(progress.track(plan)):
        if len(plan) > 1:
            progress.show(f"network {index + 1}/{len(plan)}")
        is_first = index == 0
        model = first if is_first else initialize_classifier(task.model, data, planned.seed)
        took, history_ED = train_classifier(
            model,
            task,
            data,
            planned=planned,
            history_of=subset if is_first and subset.num_params <= LARGEST_HISTORY else None,
            state_dir=state_dir,
            make_trainer=make_trainer,
            loggers=loggers if is_first else (),
            progress=progress,
        )
        last_RD[index] = flatten(model, subset)
        seconds += took
        first_history_ED = history_ED if is_first else first_history_ED
    return TrainedNetworks(first.eval(), subset, last_RD, history_ED=first_history_ED, seconds=round(seconds, 2))
