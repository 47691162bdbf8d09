"""Collecting by steps: the subset of one trained classifier is trained further and copied K times, the rest is frozen.

K checkpoints · D numbers in one flattened subset.  p-diff, §4.1.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from core.checkpoints.subset import ParameterSubset, flatten
from core.runtime.errors import UserError
from core.runtime.fit_progress import FitProgress
from core.runtime.seeding import derive_seed
from core.runtime.stage_progress import StageProgress
from core.runtime.trainer import MakeTrainer, build_trainer, limit_to_one_device
from tasks.collecting.classifier import Classifier, TrainingImages
from tasks.collecting.collection import Collection, Factory, Optimization, PlannedNetwork, TrainedNetworks
from tasks.data.splits import ImageData


@dataclass(frozen=True)
class StepsCollection(Collection):
    """The collection of snapshots of the subset while it is trained further and the rest of the network is frozen.

    Args:
        batch_size: The number of images in one optimizer step.
        every: The number of optimizer steps between checkpoints; "spread" distributes the checkpoints over one epoch.
        make_optimizer: Builds the optimizer of the subset's parameters.
    """

    batch_size: int
    every: int | str
    make_optimizer: Factory

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "StepsCollection":
        """Build this way to collect from the `task.collect` section."""
        return cls(config["batch_size"], config["every"], Factory(config["optimizer"]))

    def to_config(self) -> dict[str, Any]:
        """Return the `task.collect` section that chooses this way to collect."""
        return {"kind": "steps", **self.record()}

    def record(self) -> dict[str, Any]:
        """Return the settings that decide the checkpoints' values, in the form that their file records."""
        return {
            "batch_size": self.batch_size,
            "every": self.every,
            "optimizer": dict(self.make_optimizer.settings),
        }

    def check(self, k: int, precision: str) -> None:
        """Check the interval, and that the precision skips no optimizer steps; raises `UserError`."""
        if precision == "16-mixed":
            raise UserError(
                "trainer.precision=16-mixed cannot be used to collect checkpoints by steps: it skips optimizer steps "
                "whose gradients overflow, which would repeat checkpoints. Set trainer.precision=bf16-mixed"
            )
        choose_interval(self.every, k, steps_per_epoch=1)

    def plan_networks(self, seed: int) -> list[PlannedNetwork]:
        """Return the only network, whose subset is trained further."""
        return [PlannedNetwork("classifier", seed)]

    def check_subset(self, subset: ParameterSubset, configured: str | Sequence[str], model: nn.Module) -> None:
        """Accept every subset."""

    def pick_last_optimization(self, classifier_optimization: Optimization) -> Optimization:
        """Return the optimizer and the batch size that train the subset while checkpoints are collected."""
        return Optimization(self.make_optimizer, self.batch_size)

    def collect_vectors(
        self,
        trained: TrainedNetworks,
        data: ImageData,
        *,
        k: int,
        seed: int,
        num_workers: int | str,
        make_trainer: MakeTrainer,
        progress: StageProgress | None = None,
    ) -> Tensor:
        """Fine-tune the subset in a copy of the network and return its values at K optimizer steps, (K, D).

        BatchNorm statistics are frozen unless they are part of the subset. If they changed, the stored network with a
        vector copied into it would not reach the recorded accuracy.
        """
        subset, tuned = trained.subset, copy.deepcopy(trained.model)
        for name, parameter in tuned.named_parameters():
            parameter.requires_grad_(name in subset.names)
        buffers = {name for name, _ in tuned.named_buffers()}
        module = Classifier(
            tuned,
            data.num_classes,
            make_optimizer=self.make_optimizer,
            frozen_statistics=not buffers.intersection(subset.names),
            seed=derive_seed(seed, "collect"),
        ).train()  # Lightning keeps a module's mode; `Classifier.train` keeps frozen statistics in eval mode
        images = TrainingImages(data, self.batch_size, seed=module.seed, num_workers=num_workers)
        steps_per_epoch = len(images.train_dataloader())
        every = choose_interval(self.every, k, steps_per_epoch)
        snapshots = Snapshots(subset, k, every)
        trainer = build_trainer(
            limit_to_one_device(make_trainer),
            max_epochs=-(-k * every // steps_per_epoch),
            limit_val_batches=0,
            logger=False,
            callbacks=[FitProgress(progress or StageProgress(), num_steps=k * every), snapshots],
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
        )
        trainer.fit(module, datamodule=images)
        return snapshots.vectors_KD


def choose_interval(every: int | str, k: int, steps_per_epoch: int) -> int:
    """Return the number of optimizer steps between checkpoints.

    "spread" fits `k` checkpoints into one epoch, or takes one after every step if an epoch has fewer than `k` steps.

    Raises:
        UserError: `every` is neither "spread" nor a whole number of at least 1.
    """
    if every == "spread":
        return max(1, steps_per_epoch // k)
    if type(every) is not int or every < 1:
        raise UserError(
            f"task.collect.every={every} must be a whole number of optimizer steps, at least 1, or the word spread. "
            "Set task.collect.every=1 for a checkpoint after every step, or task.collect.every=spread to distribute "
            "the checkpoints over one epoch"
        )
    return every


class Snapshots(Callback):
    """A callback that copies the subset after every `every`-th optimizer step until there are K copies."""

    def __init__(self, subset: ParameterSubset, k: int, every: int = 1):
        self.subset, self.every, self.count = subset, every, 0
        self.vectors_KD = torch.empty(k, subset.num_params)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Copy the subset if a snapshot is due, and stop the training after the K-th."""
        assert isinstance(pl_module, Classifier)
        if trainer.global_step % self.every == 0:
            self.vectors_KD[self.count] = flatten(pl_module.model, self.subset)
            self.count += 1
        trainer.should_stop = self.count == len(self.vectors_KD)
