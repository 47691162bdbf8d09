"""Collecting by steps: the subset of one trained classifier is trained further and copied K times, the rest is frozen.

K checkpoints · H held-out vectors · D numbers in one flattened subset.  p-diff, §4.1.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import nn

from core.checkpoints.optimizer_state import copy_optimizer_state, flatten_state, unflatten_state
from core.checkpoints.shards import VectorFiles
from core.checkpoints.subset import ParameterSubset, flatten
from core.runtime.artifacts import load_artifact, save_artifact
from core.runtime.errors import UserError
from core.runtime.optimizers import try_optimizer
from core.runtime.seeding import derive_seed, reseed
from core.runtime.stage_progress import StageProgress
from core.runtime.trainer import MakeTrainer, fit, forget_fit, limit_to_one_device
from tasks.collecting.collection import (
    CollectedVectors,
    Collection,
    Factory,
    Optimization,
    PlannedNetwork,
    TrainedNetworks,
)
from tasks.collecting.network_training import NetworkTraining, TrainingItems
from tasks.data.loaders import make_training_loader
from tasks.data.splits import TaskData

NAME, OPTIMIZER_FILE = "collect", "optimizer.safetensors"  # names of files in the folder of training states


@dataclass(frozen=True)
class StepsCollection(Collection):
    """The collection of snapshots of the subset while it is trained further and the rest of the network is frozen.

    Args:
        batch_size: The number of images in one optimizer step.
        every: The number of optimizer steps between checkpoints; "spread" distributes the checkpoints over one epoch.
        make_optimizer: Builds the optimizer of the subset's parameters.
        held_out: H, the number of further vectors after the K-th, at the same interval, which are held out.
    """

    batch_size: int
    every: int | str
    make_optimizer: Factory
    held_out: int = 0

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "StepsCollection":
        """Build this way to collect from the `task.collect` section."""
        return cls(config["batch_size"], config["every"], Factory(config["optimizer"]), config.get("held_out", 0))

    def to_config(self) -> dict[str, Any]:
        """Return the `task.collect` section that chooses this way to collect."""
        return {"kind": "steps", **self.record(), "held_out": self.held_out}

    def record(self) -> dict[str, Any]:
        """Return the settings that decide the checkpoints' values, in the form that their file records."""
        return {
            "batch_size": self.batch_size,
            "every": self.every,
            "optimizer": dict(self.make_optimizer.settings),
        }

    def check(self, k: int, precision: str) -> None:
        """Check the interval and the optimizer, and that the precision skips no steps; raises `UserError`."""
        if precision == "16-mixed":
            raise UserError(
                "trainer.precision=16-mixed cannot be used to collect checkpoints by steps: it skips optimizer steps "
                "whose gradients overflow, which would repeat checkpoints. Set trainer.precision=bf16-mixed"
            )
        choose_interval(self.every, k, steps_per_epoch=1)
        try_optimizer("task.collect.optimizer", self.make_optimizer)

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
        data: TaskData,
        *,
        k: int,
        seed: int,
        num_workers: int | str,
        state_dir: Path,
        make_trainer: MakeTrainer,
        progress: StageProgress | None = None,
    ) -> CollectedVectors:
        """Fine-tune the subset in a copy of the network and copy it at K + H optimizer steps; the last H are held out.

        BatchNorm statistics are frozen unless they are part of the subset. If others changed, the stored network with a
        vector copied into it would not reach the recorded accuracy.
        """
        subset, tuned = trained.subset, copy.deepcopy(trained.model)
        for name, parameter in tuned.named_parameters():
            parameter.requires_grad_(name in subset.names)
        module = SubsetTraining(
            tuned,
            data.objective,
            make_optimizer=self.make_optimizer,
            train_only=find_owners_of_statistics(tuned, subset),
            seed=derive_seed(seed, "collect"),
        ).train()  # Lightning keeps a module's mode; `NetworkTraining.train` keeps frozen statistics in eval mode
        every = choose_interval(
            self.every, k, steps_per_epoch=len(make_training_loader(data.train, self.batch_size, module.seed))
        )
        num_steps = (k + self.held_out) * every
        files = VectorFiles(state_dir, k, self.held_out, subset.num_params)
        if not files.continued:
            # The training state goes first: after a crash in between, it would count as the state of the new files.
            forget_fit(NAME, state_dir)
            files.create()
        fit(
            module,
            TrainingItems(data, self.batch_size, seed=module.seed, num_workers=num_workers, num_steps=num_steps),
            name=NAME,
            state_dir=state_dir,
            make_trainer=partial(limit_to_one_device(make_trainer), limit_val_batches=0),
            progress=progress,
            callbacks=[Snapshots(files, subset, every=every, state_file=state_dir / OPTIMIZER_FILE)],
        )
        optimizer, _ = load_artifact(state_dir / OPTIMIZER_FILE, "optimizer", f"Delete {state_dir} to collect again")
        origin = torch.tensor([[0, step] for step in range(every, num_steps + 1, every)])
        return CollectedVectors(
            files.open_rows(),
            origin[:k],
            files.open_held_out(),
            origin[k:] if self.held_out else None,
            unflatten_state(optimizer),
        )


def find_owners_of_statistics(model: nn.Module, subset: ParameterSubset) -> list[str]:
    """Return the names of the modules that own a running statistic of the subset."""
    chosen = {name for name, _ in model.named_buffers()}.intersection(subset.names)
    return sorted({name.rpartition(".")[0] for name in chosen})


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


class SubsetTraining(NetworkTraining):
    """The training of the subset alone, which is resumed at any step."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed the random generators for this step, for networks that draw random numbers even in eval mode."""
        reseed(derive_seed(self.seed, "step", self.global_step), self.device)


class Snapshots(Callback):
    """A callback that writes the subset into files after every `every`-th optimizer step.

    After the K-th checkpoint it also writes the state of the optimizer. A fit that ends before the last vector fails,
    so it never counts as finished.

    Args:
        files: The files of the vectors.
        subset: The parameters to write.
        every: The number of optimizer steps between two vectors.
        state_file: The file of the optimizer's state.
    """

    def __init__(self, files: VectorFiles, subset: ParameterSubset, *, every: int, state_file: Path):
        self.files, self.subset, self.every, self.state_file = files, subset, every, state_file
        self.num_steps = files.num_vectors * every

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that the Trainer does not limit the steps; raises `UserError`."""
        if trainer.max_steps >= 0:
            self._require_steps(trainer.max_steps)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that the batches suffice for all steps, because a pass that was cut short could not be resumed.

        Raises:
            UserError: There are too few batches.
        """
        self._require_steps(int(trainer.num_training_batches) // trainer.accumulate_grad_batches)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Write the subset if a snapshot is due."""
        assert isinstance(pl_module, NetworkTraining)
        count, rest = divmod(trainer.global_step, self.every)
        if rest:
            return
        self.files.write(count - 1, flatten(pl_module.model, self.subset))
        if count == self.files.num_checkpoints:
            state = copy_optimizer_state(trainer.optimizers[0], pl_module.model.named_parameters())
            save_artifact(self.state_file, "optimizer", flatten_state(state), metadata={})

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make sure that all vectors were written and have reached the disk.

        Raises:
            UserError: The fit ended before the last vector.
        """
        self._require_steps(trainer.global_step)
        self.files.sync()

    def _require_steps(self, made: int) -> None:
        if made < self.num_steps:
            raise UserError(
                f"the Trainer makes only {made} of the {self.num_steps} optimizer steps that {self.files.num_vectors} "
                "checkpoints need. Remove the Trainer option that ends the training early "
                "(trainer.limit_train_batches, trainer.max_steps, trainer.fast_dev_run or "
                "trainer.accumulate_grad_batches), then run the command again"
            )

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Make sure that no training state is ahead of the vectors on the disk."""
        self.files.sync()
