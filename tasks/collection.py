"""From images to a checkpoints file: train the classifier, freeze it but for the subset, snapshot after every step.

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
from torch.utils.data import DataLoader

from core.checkpoints.checkpoint_set import CheckpointSet
from core.checkpoints.subset import ParameterSubset, flatten, resolve_subset
from core.runtime.progress import Stages
from core.runtime.seeding import derive_seed
from core.runtime.trainer import MakeTrainer, StageProgressBar, fit
from tasks.classifier import Classifier, training_loader
from tasks.data.splits import ImageData
from tasks.scoring import Scorer

LARGEST_HISTORY = 100_000  # parameters: the history is for a figure, not worth a second copy of a whole network per epoch
ACCURACY_SPLIT = "val"  # test is read once, for the report


# Where files lie and how they are read does not change what is collected; K only says how much of it.
NOT_RECORDED = {"data": ("root", "verify", "num_workers"), "param": ("path", "k")}


def recorded_settings(task: DictConfig) -> dict[str, Any]:
    """The part of the `task` configuration that decides what the checkpoints are; stored in their file."""
    settings = OmegaConf.to_container(task, resolve=True)
    settings.pop("score_with")  # whose images the fingerprint identifies
    for section, names in NOT_RECORDED.items():
        settings[section] = {name: value for name, value in settings[section].items() if name not in names}
    return {"task": settings}


class Snapshots(Callback):
    """Copies the subset out of the network after every optimizer step, until there are `k`."""

    def __init__(self, subset: ParameterSubset, k: int):
        self.subset, self.k = subset, k
        self.vectors: list[Tensor] = []

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        self.vectors.append(flatten(module.model, self.subset))
        trainer.should_stop = len(self.vectors) >= self.k


def train_classifier(
    task: DictConfig,
    model: nn.Module,
    data: ImageData,
    subset: ParameterSubset,
    *,
    state_dir: Path,
    make_trainer: MakeTrainer,
    loggers: Sequence[Logger],
    label: str,
) -> tuple[float, Tensor | None]:
    """Train `model` in place for `task.epochs`. Validation is watched, never selected on.

    Returns the seconds, and the subset at the start of each epoch and at the end, (E + 1, D), unless it is large.
    """
    module = Classifier(
        model,
        data.num_classes,
        make_optimizer=instantiate(task.optimizer),
        make_scheduler=instantiate(task.scheduler),
        seed=task.seed,
        history_of=subset if subset.num_params <= LARGEST_HISTORY else None,
        num_epochs=task.epochs,
    )
    seconds = fit(
        module,
        training_loader(data.train, task.batch_size, task.seed, task.data.num_workers),
        name="classifier",
        label=label,
        state_dir=state_dir,
        make_trainer=make_trainer,
        loggers=loggers,
        val_loader=DataLoader(data.val, task.batch_size, num_workers=task.data.num_workers),
        max_epochs=task.epochs,
    )
    return seconds, getattr(module, "history_ED", None)


def collect_vectors(task: DictConfig, model: nn.Module, data: ImageData, subset: ParameterSubset, make_trainer: MakeTrainer, label: str) -> Tensor:
    """Fine-tune only `subset` of a copy of `model` and snapshot it after every optimizer step, (K, D).

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
    loader = training_loader(data.train, task.collect.batch_size, module.seed, task.data.num_workers)
    snapshots = Snapshots(subset, task.param.k)
    trainer = make_trainer(
        max_epochs=-(-task.param.k // len(loader)),
        logger=False,
        callbacks=[StageProgressBar(label, refresh_rate=1), snapshots],
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    trainer.fit(module, loader)
    return torch.stack(snapshots.vectors)


def collect_checkpoints(
    task: DictConfig,
    model: nn.Module,
    data: ImageData,
    *,
    settings: Mapping[str, Any],
    state_dir: Path,
    make_trainer: MakeTrainer,
    loggers: Sequence[Logger],
    stages: Stages,
    scoring: Mapping[str, Any],
) -> CheckpointSet:
    """Both stages: "train_task", then "collect" with the accuracy of each snapshot on validation.

    Args:
        settings: from `recorded_settings`.
        scoring: options of `Scorer`.
    """
    subset = resolve_subset(model, task.param.subset, task.param.count)  # a wrong subset should not cost a training
    with stages.stage("train_task"):
        seconds, history_ED = train_classifier(
            task, model, data, subset, state_dir=state_dir, make_trainer=make_trainer, loggers=loggers, label=stages.label
        )
    stages.seconds["train_task"] = seconds
    model.eval()
    with stages.stage("collect"):
        vectors_KD = collect_vectors(task, model, data, subset, make_trainer, stages.label)
        score = Scorer(model, subset, data.split(ACCURACY_SPLIT), label=stages.label, **scoring)
        accuracy_K = torch.from_numpy(score(vectors_KD).accuracy_M)
    return CheckpointSet(
        vectors_KD,
        accuracy_K,
        subset,
        {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()},
        settings,
        {"seconds": dict(stages.seconds), "accuracy_split": ACCURACY_SPLIT, "data_fingerprint": data.fingerprint()},
        history_ED=history_ED,
    )
