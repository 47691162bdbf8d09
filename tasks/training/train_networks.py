"""Training of the classifiers that checkpoints are collected from: one, or several from different seeds.

E epochs · D numbers in one flattened subset.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from pytorch_lightning.loggers import Logger
from torch import Tensor, nn

from core.checkpoints.shards import VectorFiles
from core.checkpoints.subset import ParameterSubset, flatten
from core.runtime.seeding import derive_seed
from core.runtime.stage_progress import StageProgress
from core.runtime.trainer import MakeTrainer, fit
from tasks.collecting.collection import PlannedNetwork, TrainedNetworks
from tasks.collecting.network_training import NetworkTraining, TrainingItems
from tasks.data.loaders import count_images
from tasks.data.splits import TaskData
from tasks.networks.adapters import resolve_parameters
from tasks.specification import TaskSpec
from tasks.task import build_network

# The history of larger subsets is not recorded: it only serves a figure, and each epoch adds a copy of the subset.
MAX_HISTORY_PARAMS = 100_000


def initialize_classifier(task: TaskSpec, data: TaskData, seed: int) -> nn.Module:
    """Return the network of the task with the initial weights of `seed`."""
    torch.manual_seed(derive_seed(seed, "classifier/init"))
    return build_network(task, data)


def train_classifier(
    model: nn.Module,
    task: TaskSpec,
    data: TaskData,
    *,
    planned: PlannedNetwork,
    history_subset: ParameterSubset | None,
    state_dir: Path,
    make_trainer: MakeTrainer,
    loggers: Sequence[Logger],
    progress: StageProgress | None,
) -> tuple[float, Tensor | None]:
    """Train `model` in place for `task.epochs`, or load it from `state_dir` if its training already finished.

    The validation accuracy is logged but does not decide when training ends. With 0 epochs, which is meant for
    pretrained weights, the network does not change.

    Args:
        model: The network with its initial weights.
        task: The epochs, batch size, optimizer, schedule with warm-up, and largest gradient.
        data: The images.
        planned: The name of the network's files, and its seed.
        history_subset: The parameters to record during training; None records nothing.
        state_dir: The folder of training states and finished networks.
        make_trainer: Lightning's Trainer with the machine's options already set.
        loggers: The loggers of this training.
        progress: The progress of the stage; None shows nothing.

    Returns:
        The seconds of training, and the values (E + 1, D) of `history_subset` at the start of each epoch and at the
        end.
    """
    if task.epochs == 0:
        return 0.0, None
    module = NetworkTraining(
        model,
        data.objective,
        make_optimizer=task.make_optimizer,
        make_scheduler=task.make_scheduler,
        warmup_steps=task.warmup_steps,
        seed=planned.seed,
        history_subset=history_subset,
        num_epochs=task.epochs,
    )
    seconds = fit(
        module,
        TrainingItems(data, task.batch_size, seed=planned.seed, num_workers=task.data.num_workers),
        name=planned.name,
        state_dir=state_dir,
        make_trainer=limit_gradients(make_trainer, task.gradient_clip),
        progress=progress,
        loggers=loggers,
        max_epochs=task.epochs,
    )
    return seconds, getattr(module, "history_ED", None)


def count_steps(task: TaskSpec, data: TaskData, num_devices: int = 1) -> int:
    """Return the number of optimizer steps of one training on this number of devices."""
    return task.epochs * max(1, count_images(data.train) // num_devices // task.batch_size)


def limit_gradients(make_trainer: MakeTrainer, norm: float | None) -> MakeTrainer:
    """Return a Trainer factory that shortens longer gradients to `norm`; None keeps the Trainer's own setting."""
    return make_trainer if norm is None else partial(make_trainer, gradient_clip_val=norm)


def train_networks(
    task: TaskSpec,
    data: TaskData,
    *,
    state_dir: Path,
    make_trainer: MakeTrainer,
    loggers: Sequence[Logger],
    num_devices: int = 1,
    progress: StageProgress | None = None,
) -> TrainedNetworks:
    """Train every network that the checkpoints are collected from, and load the finished ones from `state_dir`.

    Args:
        task: The network, its training, and the way to collect, which plans the networks.
        data: The images.
        state_dir: The folder of training states and finished networks of an interrupted command.
        make_trainer: Lightning's Trainer with the machine's options already set.
        loggers: The loggers of the first network; the curves of several networks would overlap in one plot.
        num_devices: The number of processes that train each network.
        progress: The progress of the stage; None shows nothing.

    Raises:
        UserError: The network does not have the subset, or the subset cannot be collected in this way.
    """
    plan = task.collect.plan_networks(task.seed)
    first = initialize_classifier(task, data, plan[0].seed)
    subset = resolve_parameters(first, task.param.subset, task.param.count)
    task.collect.check_subset(subset, task.param.subset, first)  # before any network is trained
    num_held_out = sum(planned.held_out for planned in plan)
    # Adapters do not change while the network itself is trained.
    has_history = subset.num_params <= MAX_HISTORY_PARAMS and not subset.updates
    files = VectorFiles(state_dir, len(plan) - num_held_out, num_held_out, subset.num_params) if plan[1:] else None
    if files is not None and not files.continued:
        files.create()
    seconds, first_history_ED = 0.0, None
    progress = progress or StageProgress()
    for index, planned in enumerate(progress.track(plan)):
        if len(plan) > 1:
            progress.show(f"network {index + 1}/{len(plan)}")
        is_first = index == 0
        model = first if is_first else initialize_classifier(task, data, planned.seed)
        seconds_of_one, history_ED = train_classifier(
            model,
            task,
            data,
            planned=planned,
            history_subset=subset if is_first and has_history else None,
            state_dir=state_dir,
            make_trainer=make_trainer,
            loggers=loggers if is_first else (),
            progress=progress,
        )
        if files is not None:
            files.write(index, flatten(model, subset))
        seconds += seconds_of_one
        first_history_ED = history_ED if is_first else first_history_ED
    if files is not None:
        files.sync()
    return TrainedNetworks(
        first.eval(),
        subset,
        files,
        history_ED=first_history_ED,
        seconds=round(seconds, 2),
        num_steps=count_steps(task, data, num_devices),
    )
