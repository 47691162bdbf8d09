"""Collecting independent trainings: whole classifiers from different seeds, of which each gives its last weights.

K checkpoints · R trained networks · D numbers in one flattened subset.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from core.checkpoints.subset import ParameterSubset, floating_entries
from core.runtime.errors import UserError
from core.runtime.seeding import derive_seed
from core.runtime.stage_progress import StageProgress
from core.runtime.trainer import MakeTrainer
from tasks.collecting.collection import Collection, Optimization, Planned, TrainedNetworks
from tasks.data.splits import ImageData


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
        progress: StageProgress | None = None,
    ) -> Tensor:
        """Return the last weights of every trained network, (R, D), also of those beyond the K-th."""
        if progress is not None:
            progress.skip()
        return trained.last_RD
