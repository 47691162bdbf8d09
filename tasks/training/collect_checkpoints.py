"""From images to a checkpoints file: train the classifiers, take checkpoints of them, score each on validation.

K checkpoints · D numbers in one flattened subset.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.loggers import Logger

from core.checkpoints.checkpoint_set import CheckpointSet
from core.runtime.progress import Stages
from core.runtime.trainer import MakeTrainer
from tasks.data.splits import ImageData
from tasks.scoring.scorer import Scorer, ScoringSpec
from tasks.specification import TaskSpec
from tasks.training.train_networks import train_networks

ACCURACY_SPLIT = "val"  # test is read once, for the report


def record_machine(*, training_precision: str, num_devices: int, scoring_precision: str) -> dict[str, Any]:
    """Return how the classifier is trained and scored, as far as it changes the checkpoints.

    Only commands that train compare these: a file from several GPUs may be modelled on one.
    """
    return {
        "trainer": {"precision": training_precision, "devices": num_devices},
        "scoring": {"precision": scoring_precision},
    }


def collect_checkpoints(
    task: TaskSpec,
    data: ImageData,
    *,
    settings: Mapping[str, Any],
    state_dir: Path,
    make_trainer: MakeTrainer,
    loggers: Sequence[Logger],
    stages: Stages,
    scoring: ScoringSpec,
) -> CheckpointSet:
    """Run both stages: "train_task", then "collect" with the accuracy of each checkpoint on validation.

    Args:
        task: the classifier and how checkpoints are taken of it.
        data: its images.
        settings: from `TaskSpec.record` and `record_machine`, to be stored with the checkpoints.
        state_dir: of training states, for a command that is interrupted.
        make_trainer: Lightning's Trainer with the machine's options bound.
        loggers: of the classifier's training.
        stages: receives the seconds of each.
        scoring: how the checkpoints are scored.
    """
    with stages.stage("train_task", f"{task.epochs} epochs") as progress:
        trained = train_networks(
            task, data, state_dir=state_dir, make_trainer=make_trainer, loggers=loggers, progress=progress
        )
    stages.seconds["train_task"] = trained.seconds  # of all sessions
    model, subset = trained.model, trained.subset
    with stages.stage("collect", f"{task.param.k} checkpoints") as progress, progress.part(units=2):
        with progress.part(name="train"):
            vectors_KD = task.collect.collect_vectors(
                trained,
                data,
                k=task.param.k,
                seed=task.seed,
                num_workers=task.data.num_workers,
                make_trainer=make_trainer,
                progress=progress,
            )
        images, normalize = data.split(ACCURACY_SPLIT), data.make_normalizer()
        score = Scorer(
            model,
            subset,
            images,
            normalize=normalize,
            label=f"{ACCURACY_SPLIT} images",
            options=scoring,
            progress=progress,
        )
        with progress.part(units=len(vectors_KD) * score.num_images, name="score"):
            accuracy_K = torch.from_numpy(score(vectors_KD).accuracy_M)
    return CheckpointSet(
        vectors_KD=vectors_KD,
        accuracy_K=accuracy_K,
        subset=subset,
        network={name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()},
        settings=settings,
        provenance={
            "seconds": dict(stages.seconds),
            "accuracy_split": ACCURACY_SPLIT,
            "data_fingerprint": data.fingerprint(),
            **data.about,
        },
        history_ED=trained.history_ED,
    )
