"""The deep ensemble: whole networks trained with other seeds, the measure of what many models are worth together.

R networks · W numbers in one whole network.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.checkpoints.subset import find_columns, flatten, resolve_subset
from core.evaluation.evaluate import BACKWARD
from core.evaluation.kinds import DEEP_ENSEMBLE, Kind
from core.evaluation.sources import Source
from core.runtime.errors import UserError
from core.runtime.seeding import derive_seed
from core.runtime.settings import hash_settings
from core.runtime.source_code import digest_code, locate
from core.runtime.stage_progress import StageProgress
from core.runtime.trainer import MakeTrainer
from tasks.collecting.independent import IndependentCollection
from tasks.data.loaders import count_images
from tasks.data.splits import TaskData
from tasks.specification import TaskSpec
from tasks.task import Task
from tasks.training.train_networks import count_steps, initialize_classifier, train_classifier

SETTINGS = ("epochs", "batch_size", "optimizer", "scheduler", "warmup_steps", "gradient_clip", "data", "model")


def check_deep_ensemble(spec: TaskSpec, num_networks: int, *, imported: bool) -> None:
    """Check that the networks of the deep ensemble can be trained, before any other work.

    Args:
        spec: The network and its training.
        num_networks: The number of networks.
        imported: Whether another program trained the checkpoints.

    Raises:
        UserError: There is only one network, or the task does not say how a network is trained.
    """
    option = f"evaluation.deep_ensemble={num_networks}"
    if num_networks == 1:
        raise UserError(f"{option} must be 0 or at least 2, because one network cannot vote. Set it to 5, for example")
    if num_networks and spec.score_with and imported:
        raise UserError(
            f"{option} cannot be used with imported checkpoints of task.score_with={spec.score_with}, because the "
            "recipe that trains its networks is unknown. Set evaluation.deep_ensemble=0"
        )
    if num_networks and spec.epochs == 0:
        raise UserError(
            f"{option} needs task.epochs of at least 1, because networks without training do not differ. "
            "Set evaluation.deep_ensemble=0"
        )


def list_deep_ensemble(
    spec: TaskSpec,
    task: Task,
    *,
    num_networks: int,
    num_train_images: int,
    seed: int,
    folder: Path,
    make_trainer: MakeTrainer,
    machine: Mapping[str, Any],
    progress: StageProgress,
) -> list[Source]:
    """Return the deep ensemble as a source of weights, or nothing for 0 networks.

    Its models are whole networks, so it has its own scoring functions. Its table keeps only the subset of each network.

    Args:
        spec: The network and its training.
        task: The images, the network and the subset.
        num_networks: R, the number of networks.
        num_train_images: The number of training images that scoring functions use.
        seed: The seed of the run.
        folder: The folder of training states and trained networks.
        make_trainer: Lightning's Trainer with the machine's options already set.
        machine: The precision of the training and its number of devices, as "precision" and "devices".
        progress: The progress of the stage that scores.
    """
    if not num_networks:
        return []
    recipe = spec.record()["task"]
    settings = {"recipe": {name: recipe[name] for name in SETTINGS}, "trainer": dict(machine)}
    whole = replace(task, subset=resolve_subset(task.model, "all"))
    identity = {**settings, "seed": seed, "images": task.data.digests}
    train = partial(
        train_deep_ensemble,
        spec,
        task.data,
        num_networks=num_networks,
        seed=seed,
        state_dir=folder / hash_settings(identity),
        make_trainer=make_trainer,
        progress=progress,
    )
    return [
        Source(
            DEEP_ENSEMBLE,
            Kind.TRAINED,
            train,
            ("val", "test"),
            code=digest_code([locate(train_deep_ensemble), locate(train_classifier)]),
            settings={**settings, "num_networks": num_networks},
            score_fns={**whole.score_fns(num_train_images, progress), **whole.ood_fns(progress)},
            num_models=num_networks,
            columns_D=find_columns(task.subset.names, whole.subset),
            gradient_evaluations=count_steps(spec, task.data, machine["devices"]),
            training_images=spec.epochs * count_images(task.data.train),
        )
    ]


def train_deep_ensemble(
    spec: TaskSpec,
    data: TaskData,
    *,
    num_networks: int,
    seed: int,
    state_dir: Path,
    make_trainer: MakeTrainer,
    progress: StageProgress,
) -> Tensor:
    """Return R whole networks (R, W), each trained as the classifier of the checkpoints was, from a seed of its own.

    The members differ in their initial weights, unless these are pretrained, and in the order and augmentation of the
    images (Lakshminarayanan et al. 2017, without adversarial training). An interrupted training is resumed. Trained
    networks stay in `state_dir`, also for a larger deep ensemble.

    Args:
        spec: The network and its training.
        data: The images.
        num_networks: R.
        seed: The seed of the run.
        state_dir: The folder of training states and trained networks.
        make_trainer: Lightning's Trainer with the machine's options already set.
        progress: The progress of the stage, whose units are images that a network sees.
    """
    plan = IndependentCollection(num_networks).plan_networks(derive_seed(seed, DEEP_ENSEMBLE))
    vectors = []
    with progress.part(num_networks * (1 + BACKWARD) * spec.epochs * count_images(data.train)):
        for index, planned in enumerate(progress.track(plan)):
            progress.show(f"network {index + 1}/{num_networks}")
            model = initialize_classifier(spec, data, planned.seed)
            train_classifier(
                model,
                spec,
                data,
                planned=planned,
                history_subset=None,
                state_dir=state_dir,
                make_trainer=make_trainer,
                loggers=(),
                progress=progress,
            )
            vectors.append(flatten(model, resolve_subset(model, "all")))
    return torch.stack(vectors)
