"""From images to a checkpoints file, in one of two ways.

Steps: train the classifier, freeze it but for the subset, train that on and take snapshots of it (p-diff, §4.1).
Independent: train whole classifiers from different seeds, and take the last weights of each.

K checkpoints · D numbers in one flattened subset.
"""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import Logger
from torch import Tensor, nn

from core.checkpoints.checkpoint_set import CheckpointSet
from core.checkpoints.subset import ParameterSubset, flatten
from core.runtime.errors import UserError
from core.runtime.progress import Stages
from core.runtime.seeding import derive_seed
from core.runtime.trainer import MakeTrainer, StageProgressBar, num_devices, on_one_device, trainer_with
from tasks.collecting.classifier import Classifier, TrainingImages
from tasks.collecting.training import INDEPENDENT, is_independent, train_networks
from tasks.data.splits import ImageData
from tasks.scoring.scorer import Scorer

ACCURACY_SPLIT = "val"  # test is read once, for the report

# Where files lie and how they are read does not change what is collected; K only says how much of it.
NOT_RECORDED = {
    "data": ("root", "verify", "num_workers"),
    "param": ("path", "k"),
}  # augmentations do not depend on workers


def recorded_settings(task: DictConfig) -> dict[str, Any]:
    """The part of the `task` configuration that decides what the checkpoints are; stored in their file."""
    settings = OmegaConf.to_container(task, resolve=True)
    settings.pop("score_with")  # whose images the fingerprint identifies
    for section, names in NOT_RECORDED.items():
        settings[section] = {name: value for name, value in settings[section].items() if name not in names}
    if is_independent(task):
        settings["collect"] = INDEPENDENT
    return {"task": settings}


def machine_settings(trainer: DictConfig, scoring: DictConfig) -> dict[str, Any]:
    """Return how the classifier is trained and scored, as far as it changes the checkpoints.

    Only commands that train compare these: a file from several GPUs may be modelled on one.
    """
    return {
        "trainer": {"precision": trainer.precision, "devices": num_devices(trainer)},
        "scoring": {"precision": scoring.precision},
    }


def check_collection(task: DictConfig, precision: str) -> None:
    """Find a mistake in `task.collect` before it costs a training.

    Raises:
        UserError: fewer networks than checkpoints, an impossible interval, or a precision that skips steps.
    """
    if not is_independent(task):
        if precision == "16-mixed":
            raise UserError(
                "trainer.precision=16-mixed skips optimizer steps whose gradients overflow, so that checkpoints would repeat; set trainer.precision=bf16-mixed"
            )
        snapshot_interval(task.collect.every, task.param.k, steps_per_epoch=1)
        return
    if task.param.k > task.collect.runs:
        raise UserError(
            f"task.param.k={task.param.k} checkpoints asked for of task.collect.runs={task.collect.runs} networks; leave out task.param.k, or give at most {task.collect.runs}"
        )


def snapshot_interval(every: int | str, k: int, steps_per_epoch: int) -> int:
    """Optimizer steps from one checkpoint to the next; "spread" has `k` of them in one epoch, if it is long enough.

    Raises:
        UserError: `every` is no number of steps.
    """
    if every == "spread":
        return max(1, steps_per_epoch // k)
    if type(every) is not int or every < 1:
        raise UserError(
            f"task.collect.every={every}: expected a whole number of optimizer steps, at least 1, or the word spread"
        )
    return every


class Snapshots(Callback):
    """Copies the subset out of the network after every `every`-th optimizer step, until there are K."""

    def __init__(self, subset: ParameterSubset, k: int, every: int = 1):
        self.subset, self.every, self.count = subset, every, 0
        self.vectors_KD = torch.empty(k, subset.num_params)

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        if trainer.global_step % self.every == 0:
            self.vectors_KD[self.count] = flatten(module.model, self.subset)
            self.count += 1
        trainer.should_stop = self.count == len(self.vectors_KD)


def collect_vectors(
    task: DictConfig, model: nn.Module, data: ImageData, subset: ParameterSubset, make_trainer: MakeTrainer, label: str
) -> Tensor:
    """Fine-tune only `subset` of a copy of `model` and snapshot it every `task.collect.every` optimizer steps, (K, D).

    BatchNorm statistics stay as they are, unless they are part of the subset; otherwise a vector put back later would
    meet other statistics than those it was scored with.
    """
    tuned = copy.deepcopy(model)
    for name, parameter in tuned.named_parameters():
        parameter.requires_grad_(name in subset.names)
    buffers = {name for name, _ in tuned.named_buffers()}
    module = Classifier(
        tuned,
        data.num_classes,
        make_optimizer=instantiate(task.collect.optimizer),
        frozen_statistics=not buffers.intersection(subset.names),
        seed=derive_seed(task.seed, "collect"),
    ).train()  # Lightning keeps the mode that it finds; `Classifier.train` knows when to stay in eval
    images = TrainingImages(data, task.collect.batch_size, module.seed, task.data.num_workers)
    steps_per_epoch = len(images.train_dataloader())
    every = snapshot_interval(task.collect.every, task.param.k, steps_per_epoch)
    snapshots = Snapshots(subset, task.param.k, every)
    trainer = trainer_with(
        on_one_device(make_trainer),
        max_epochs=-(-task.param.k * every // steps_per_epoch),
        limit_val_batches=0,
        logger=False,
        callbacks=[StageProgressBar(label, refresh_rate=1), snapshots],
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=images)
    return snapshots.vectors_KD


def collect_checkpoints(
    task: DictConfig,
    data: ImageData,
    *,
    settings: Mapping[str, Any],
    state_dir: Path,
    make_trainer: MakeTrainer,
    loggers: Sequence[Logger],
    stages: Stages,
    scoring: Mapping[str, Any],
) -> CheckpointSet:
    """Both stages: "train_task", then "collect" with the accuracy of each checkpoint on validation.

    Args:
        settings: from `recorded_settings`.
        scoring: options of `Scorer`.
    """
    with stages.stage("train_task"):
        trained = train_networks(
            task, data, state_dir=state_dir, make_trainer=make_trainer, loggers=loggers, label=stages.label
        )
    stages.seconds["train_task"] = trained.seconds  # of all sessions
    model, subset = trained.model, trained.subset
    with stages.stage("collect"):
        vectors_KD = (
            trained.last_RD
            if is_independent(task)
            else collect_vectors(task, model, data, subset, make_trainer, stages.label)
        )
        score = Scorer(
            model, subset, data.split(ACCURACY_SPLIT), normalize=data.make_normalizer(), label=stages.label, **scoring
        )
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
