"""The way from images to a checkpoints file: train the classifiers, collect checkpoints, score each on validation.

K checkpoints · D numbers in one flattened subset.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.loggers import Logger
from torch import Tensor, nn

from core.checkpoints.checkpoint_set import CheckpointSet
from core.checkpoints.subset import ParameterSubset
from core.checkpoints.vector_rows import VectorRows
from core.runtime.progress import Stages
from core.runtime.stage_progress import StageProgress
from core.runtime.trainer import MakeTrainer
from tasks.data.splits import TaskData
from tasks.scoring.scorer import Scorer, ScoringSpec
from tasks.specification import TaskSpec
from tasks.training.train_networks import train_networks

ACCURACY_SPLIT = "val"  # the test images are used once, for the report


def record_machine(*, training_precision: str, num_devices: int, scoring_precision: str) -> dict[str, Any]:
    """Return the settings of training and scoring on this machine that change the checkpoints' values.

    Only commands that train compare these settings. A checkpoints file from several GPUs may be modeled on one.
    """
    return {
        "trainer": {"precision": training_precision, "devices": num_devices},
        "scoring": {"precision": scoring_precision},
    }


def collect_checkpoints(
    task: TaskSpec,
    data: TaskData,
    *,
    settings: Mapping[str, Any],
    state_dir: Path,
    make_trainer: MakeTrainer,
    loggers: Sequence[Logger],
    stages: Stages,
    scoring: ScoringSpec,
    num_devices: int = 1,
) -> CheckpointSet:
    """Train the classifiers (stage "train_task"), then collect and score their checkpoints (stage "collect").

    Args:
        task: The classifier, and the way to collect checkpoints from it.
        data: The images.
        settings: The settings to store with the checkpoints, from `TaskSpec.record` and `record_machine`.
        state_dir: The folder of training states, from which an interrupted command resumes.
        make_trainer: Lightning's Trainer with the machine's options already set.
        loggers: The loggers of the classifier's training.
        stages: The stages of the command, which receive the seconds of each stage.
        scoring: How to score the checkpoints.
        num_devices: The number of processes that train each classifier.
    """
    with stages.stage("train_task", f"{task.epochs} epochs") as progress:
        trained = train_networks(
            task,
            data,
            state_dir=state_dir,
            make_trainer=make_trainer,
            loggers=loggers,
            num_devices=num_devices,
            progress=progress,
        )
    stages.seconds["train_task"] = trained.seconds  # this includes the sessions before an interruption
    held_out = f" and {task.collect.held_out} held-out ones" if task.collect.held_out else ""
    with stages.stage("collect", f"{task.param.k} checkpoints{held_out}") as progress, progress.part(units=2):
        with progress.part(name="train"):
            collected = task.collect.collect_vectors(
                trained,
                data,
                k=task.param.k,
                seed=task.seed,
                num_workers=task.data.num_workers,
                state_dir=state_dir,
                make_trainer=make_trainer,
                progress=progress,
            )
        accuracy_K = measure_accuracy(
            collected.rows, trained.model, trained.subset, data, scoring=scoring, progress=progress
        )
    return CheckpointSet(
        rows=collected.rows,
        accuracy_K=accuracy_K,
        subset=trained.subset,
        network=copy_state(trained.model),
        settings=settings,
        provenance={"seconds": dict(stages.seconds), **record_images(data)},
        history_ED=trained.history_ED,
        origin_K2=collected.origin_K2,
        held_out_HD=collected.held_out_HD,
        held_out_origin_H2=collected.held_out_origin_H2,
        optimizer_state=collected.optimizer_state,
    )


def measure_accuracy(
    rows: VectorRows,
    model: nn.Module,
    subset: ParameterSubset,
    data: TaskData,
    *,
    scoring: ScoringSpec | None,
    progress: StageProgress,
) -> Tensor:
    """Return the accuracy of each checkpoint (K,) on `ACCURACY_SPLIT`.

    Args:
        rows: The checkpoints.
        model: The network around the subset.
        subset: The parameters that the vectors hold.
        data: The images.
        scoring: How to score; None for the defaults.
        progress: The progress of the stage that scores.
    """
    items, normalize = data.split(ACCURACY_SPLIT), data.make_normalizer()
    label = f"{ACCURACY_SPLIT} {data.noun}"
    score = Scorer(
        model,
        subset,
        items,
        objective=data.objective,
        normalize=normalize,
        collate=data.collate,
        label=label,
        options=scoring,
        progress=progress,
    )
    with progress.part(units=len(rows) * score.num_images, name="score"):
        return torch.cat([torch.from_numpy(score(shard_BD).accuracy_M) for shard_BD in rows.shards])


def copy_state(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of the network's whole state dict on the CPU."""
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}


def record_images(data: TaskData) -> dict[str, Any]:
    """Return the entries of a checkpoints file that identify the images which its checkpoints were scored on."""
    images = {"images": data.digests, "data_fingerprint": data.fingerprint()}
    return {"accuracy_split": ACCURACY_SPLIT, **data.objective.metric.write(), **images, **data.provenance}
