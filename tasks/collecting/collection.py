"""The interface of every way to collect checkpoints from training; `task.collect` chooses one.

K checkpoints · H held-out vectors · E epochs · D numbers in one flattened subset.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from hydra.utils import instantiate
from torch import Tensor, nn

from core.checkpoints.optimizer_state import OptimizerState
from core.checkpoints.shards import VectorFiles
from core.checkpoints.subset import ParameterSubset
from core.checkpoints.vector_rows import VectorRows
from core.runtime.stage_progress import StageProgress
from core.runtime.trainer import MakeTrainer
from tasks.data.splits import TaskData


@dataclass(frozen=True)
class Factory:
    """A callable from the configuration, such as an optimizer without its parameters, together with its settings.

    Args:
        settings: The entries `_target_` and `_partial_: true`, and plain arguments, as Hydra instantiates them.
    """

    settings: Mapping[str, Any]

    def __call__(self, *arguments: Any) -> Any:
        """Return the object that the settings and these arguments describe."""
        return self._partial(*arguments)

    @cached_property
    def _partial(self) -> Callable[..., Any]:
        return instantiate(self.settings)


class Optimization(NamedTuple):
    """The optimizer and the batch size with which some parameters are trained."""

    make_optimizer: Factory
    batch_size: int


class PlannedNetwork(NamedTuple):
    """One network to be trained."""

    name: str  # the stem of its file names
    seed: int
    held_out: bool = False  # whether its weights are held out from the checkpoints


@dataclass(frozen=True)
class TrainedNetworks:
    """The result of training: one network to collect by steps, or several independent networks."""

    model: nn.Module  # the first network; only the subset of the other networks is kept
    subset: ParameterSubset
    files: VectorFiles | None = None  # the subset of every network at the end, if there are several networks
    history_ED: Tensor | None = None  # the subset of the first network during its training
    seconds: float = 0.0
    num_steps: int = 0  # the optimizer steps of each training


@dataclass(frozen=True)
class CollectedVectors:
    """The checkpoints and the held-out vectors that were collected, with their origins."""

    rows: VectorRows  # (K, D)
    origin_K2: Tensor  # the training of each checkpoint, and its optimizer step
    held_out_HD: Tensor | None = None
    held_out_origin_H2: Tensor | None = None
    optimizer_state: OptimizerState | None = None  # after the K-th checkpoint


class Collection(ABC):
    """A way to collect K checkpoints from training."""

    held_out: int  # H, the number of further vectors that are held out from the checkpoints

    @classmethod
    @abstractmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Collection":
        """Build this way to collect from the `task.collect` section."""

    @abstractmethod
    def to_config(self) -> dict[str, Any]:
        """Return the `task.collect` section that chooses this way to collect."""

    @abstractmethod
    def record(self) -> dict[str, Any] | str:
        """Return the settings that decide the checkpoints' values, in the form that their file records."""

    @abstractmethod
    def check(self, k: int, precision: str) -> None:
        """Check the settings before any network is trained.

        Args:
            k: The number of checkpoints to collect.
            precision: The Trainer's precision, for example "tf32" or "16-mixed".

        Raises:
            UserError: This way cannot collect `k` checkpoints, or cannot collect in this precision.
        """

    @abstractmethod
    def plan_networks(self, seed: int) -> list[PlannedNetwork]:
        """Return the networks to train; the first is stored with the checkpoints."""

    @abstractmethod
    def check_subset(self, subset: ParameterSubset, configured: str | Sequence[str], model: nn.Module) -> None:
        """Check that this way can collect `subset`.

        Args:
            subset: The parameters of `model` to collect.
            configured: The value of task.param.subset, named in the error.
            model: The first of the planned networks.

        Raises:
            UserError: This way cannot collect the subset.
        """

    @abstractmethod
    def pick_last_optimization(self, classifier_optimization: Optimization) -> Optimization:
        """Return the optimizer and the batch size with which the checkpoints were last trained.

        The fine-tuned baseline continues with them.

        Args:
            classifier_optimization: The optimizer and the batch size of the whole classifier.
        """

    @abstractmethod
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
        """Return the checkpoints and the held-out vectors, which lie in files in `state_dir`.

        Args:
            trained: The planned networks after their training.
            data: The images that the networks were trained on.
            k: K, the number of checkpoints.
            seed: The value of task.seed.
            num_workers: The number of processes that read images, or "auto".
            state_dir: The folder of training states, from which an interrupted collection resumes.
            make_trainer: Lightning's Trainer with the machine's options already set.
            progress: The progress of the stage, in which collecting is one unit; None shows nothing.
        """
