"""What every way to take checkpoints of training offers; `task.collect` chooses one.

K checkpoints · R trained networks · E epochs · D numbers in one flattened subset.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from hydra.utils import instantiate
from torch import Tensor, nn

from core.checkpoints.subset import ParameterSubset
from core.runtime.stage_progress import StageProgress
from core.runtime.trainer import MakeTrainer
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
    history_ED: Tensor | None = None
    seconds: float = 0.0


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
        progress: StageProgress | None = None,
    ) -> Tensor:
        """Return the checkpoints (K, D).

        Args:
            trained: the planned networks.
            data: whose training images the network saw.
            k: K.
            seed: of the task.
            num_workers: processes that read images, or "auto".
            make_trainer: Lightning's Trainer with the machine's options bound.
            progress: The progress of the stage, in which this is one unit; None shows nothing.
        """
