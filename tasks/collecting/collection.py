"""The two ways to take checkpoints of training, of which `task.collect` chooses one.

Steps: train one classifier, freeze it but for the subset, train that on and take snapshots of it (p-diff, §4.1).
Independent: train whole classifiers from different seeds, and take the last weights of each.

K checkpoints · R trained networks · E epochs · D numbers in one flattened subset.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from hydra.utils import instantiate
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from core.checkpoints.subset import ParameterSubset, flatten, floating_entries
from core.runtime.errors import UserError
from core.runtime.seeding import derive_seed
from core.runtime.trainer import MakeTrainer, StageProgressBar, on_one_device, trainer_with
from tasks.collecting.classifier import Classifier, TrainingImages
from tasks.data.splits import ImageData


@dataclass(frozen=True)
class Factory:
    """A callable of the configuration, such as an optimizer that still lacks its parameters, and what it was made from.

    Args:
        settings: `_target_`, `_partial_: true` and plain arguments, as Hydra instantiates them.
    """

    settings: Mapping[str, Any]

    def __call__(self, *arguments: Any) -> Any:
        """Return the object."""
        return self._partial(*arguments)

    @cached_property
    def _partial(self) -> Callable[..., Any]:
        return instantiate(self.settings)


class Optimization(NamedTuple):
    """How some parameters are trained."""

    make_optimizer: Factory
    batch_size: int


class Planned(NamedTuple):
    """One network to be trained."""

    name: str  # of its files
    seed: int


@dataclass(frozen=True)
class TrainedNetworks:
    """What training left: one network for steps, R for independent ones, of which the first is kept whole."""

    model: nn.Module
    subset: ParameterSubset
    last_RD: Tensor
    history_ED: Tensor | None
    seconds: float


class Collection(ABC):
    """A way to take K checkpoints of training."""

    @classmethod
    @abstractmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Collection":
        """Build from the `task.collect` section."""

    @abstractmethod
    def to_config(self) -> dict[str, Any]:
        """Return the `task.collect` section that chooses this way."""

    @abstractmethod
    def record(self) -> dict[str, Any] | str:
        """Return what decides the checkpoints, as their file records it."""

    @abstractmethod
    def check(self, k: int, precision: str) -> None:
        """Find a mistake before it costs a training.

        Args:
            k: checkpoints that are asked for.
            precision: of training.

        Raises:
            UserError: this way cannot give that many, or not in that precision.
        """

    @abstractmethod
    def plan_networks(self, seed: int) -> list[Planned]:
        """Return the networks to be trained; the first is stored with the checkpoints."""

    @abstractmethod
    def check_subset(self, subset: ParameterSubset, asked: str | Sequence[str], model: nn.Module) -> None:
        """Find a subset that this way cannot collect.

        Args:
            subset: of `model`.
            asked: the configuration value that it comes from.
            model: the first of the planned networks.

        Raises:
            UserError: it cannot.
        """

    @abstractmethod
    def pick_last_optimization(self, of_classifier: Optimization) -> Optimization:
        """Return how the checkpoints were last trained, so that a baseline can train them on alike."""

    @abstractmethod
    def collect_vectors(
        self,
        trained: TrainedNetworks,
        data: ImageData,
        *,
        k: int,
        seed: int,
        num_workers: int | str,
        make_trainer: MakeTrainer,
        label: str,
    ) -> Tensor:
        """Return the checkpoints (K, D).

        Args:
            trained: the planned networks.
            data: whose training images the network saw.
            k: K.
            seed: of the task.
            num_workers: processes that read images, or "auto".
            make_trainer: Lightning's Trainer with the machine's options bound.
            label: of the progress bar.
        """


@dataclass(frozen=True)
class StepsCollection(Collection):
    """Snapshots of the subset while it alone is trained on.

    Args:
        batch_size: images of one optimizer step.
        every: optimizer steps from one checkpoint to the next; "spread" has them evenly over one epoch.
        make_optimizer: of the subset's parameters.
    """

    batch_size: int
    every: int | str
    make_optimizer: Factory

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "StepsCollection":
        """Build from the `task.collect` section."""
        return cls(config["batch_size"], config["every"], Factory(config["optimizer"]))

    def to_config(self) -> dict[str, Any]:
        """Return the `task.collect` section that chooses this way."""
        return {"kind": "steps", **self.record()}

    def record(self) -> dict[str, Any]:
        """Return what decides the checkpoints, as their file records it."""
        return {
            "batch_size": self.batch_size,
            "every": self.every,
            "optimizer": dict(self.make_optimizer.settings),
        }

    def check(self, k: int, precision: str) -> None:
        """Find an impossible interval, or a precision that skips steps; raises `UserError`."""
        if precision == "16-mixed":
            raise UserError(
                "trainer.precision=16-mixed skips optimizer steps whose gradients overflow, so that checkpoints would "
                "repeat; set trainer.precision=bf16-mixed"
            )
        choose_interval(self.every, k, steps_per_epoch=1)

    def plan_networks(self, seed: int) -> list[Planned]:
        """Return the one network that is trained on."""
        return [Planned("classifier", seed)]

    def check_subset(self, subset: ParameterSubset, asked: str | Sequence[str], model: nn.Module) -> None:
        """Accept every subset."""

    def pick_last_optimization(self, of_classifier: Optimization) -> Optimization:
        """Return how the subset was trained on."""
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
        label: str,
    ) -> Tensor:
        """Fine-tune only the subset of a copy of the network and take it every few optimizer steps, (K, D).

        BatchNorm statistics stay as they are, unless they are part of the subset; otherwise a vector put back later
        would meet other statistics than those it was scored with.
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
        ).train()  # Lightning keeps the mode that it finds; `Classifier.train` knows when to stay in eval
        images = TrainingImages(data, self.batch_size, seed=module.seed, num_workers=num_workers)
        steps_per_epoch = len(images.train_dataloader())
        every = choose_interval(self.every, k, steps_per_epoch)
        snapshots = Snapshots(subset, k, every)
        trainer = trainer_with(
            on_one_device(make_trainer),
            max_epochs=-(-k * every // steps_per_epoch),
            limit_val_batches=0,
            logger=False,
            callbacks=[StageProgressBar(label, refresh_rate=1), snapshots],
            enable_checkpointing=False,
            enable_model_summary=False,
        )
        trainer.fit(module, datamodule=images)
        return snapshots.vectors_KD


@dataclass(frozen=True)
class IndependentCollection(Collection):
    """The last weights of whole networks that were trained from different seeds.

    Args:
        runs: R, networks to be trained.
    """

    runs: int

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "IndependentCollection":
        """Build from the `task.collect` section; what tasks set there for steps is not used."""
        return cls(config["runs"])

    def to_config(self) -> dict[str, Any]:
        """Return the `task.collect` section that chooses this way."""
        return {"kind": "independent", "runs": self.runs}

    def record(self) -> str:
        """Return the word alone: how many networks there are does not change any of them."""
        return "independent"

    def check(self, k: int, precision: str) -> None:
        """Find fewer networks than checkpoints; raises `UserError`."""
        if k > self.runs:
            raise UserError(
                f"task.param.k={k} checkpoints asked for of task.collect.runs={self.runs} networks; "
                f"leave out task.param.k, or give at most {self.runs}"
            )

    def plan_networks(self, seed: int) -> list[Planned]:
        """Return R networks, each with a seed of its own."""
        return [
            Planned(f"classifier_{index:03d}", derive_seed(seed, "independent", index)) for index in range(self.runs)
        ]

    def check_subset(self, subset: ParameterSubset, asked: str | Sequence[str], model: nn.Module) -> None:
        """Refuse a part of the network, since the rest of each would be another one; raises `UserError`."""
        if subset.names != tuple(floating_entries(model)):
            raise UserError(
                f"task.collect=independent with task.param.subset={asked}: the rest of each network would be another "
                "one; give task.param.subset=all"
            )

    def pick_last_optimization(self, of_classifier: Optimization) -> Optimization:
        """Return how the classifiers were trained."""
        return of_classifier

    def collect_vectors(
        self,
        trained: TrainedNetworks,
        data: ImageData,
        *,
        k: int,
        seed: int,
        num_workers: int | str,
        make_trainer: MakeTrainer,
        label: str,
    ) -> Tensor:
        """Return the last weights of every trained network, (R, D), also of those beyond the K-th."""
        return trained.last_RD


KINDS: dict[str, type[Collection]] = {"steps": StepsCollection, "independent": IndependentCollection}


def choose_collection(config: Mapping[str, Any]) -> Collection:
    """Return the collection of a `task.collect` section, by its `kind`.

    Raises:
        UserError: there is no such kind.
    """
    if config.get("kind") not in KINDS:
        raise UserError(f"task.collect.kind={config.get('kind')}: expected one of {', '.join(KINDS)}")
    return KINDS[config["kind"]].from_config(config)


def choose_interval(every: int | str, k: int, steps_per_epoch: int) -> int:
    """Return the optimizer steps between checkpoints; "spread" has `k` of them in one epoch, if it is long enough.

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
    """Copies of the subset, taken after every `every`-th optimizer step until there are K."""

    def __init__(self, subset: ParameterSubset, k: int, every: int = 1):
        self.subset, self.every, self.count = subset, every, 0
        self.vectors_KD = torch.empty(k, subset.num_params)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Take a snapshot where one is due, and stop the training after the last."""
        assert isinstance(pl_module, Classifier)
        if trainer.global_step % self.every == 0:
            self.vectors_KD[self.count] = flatten(pl_module.model, self.subset)
            self.count += 1
        trainer.should_stop = self.count == len(self.vectors_KD)
