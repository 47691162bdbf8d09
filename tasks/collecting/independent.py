"""Collecting from independent trainings: each of several whole classifiers gives its final weights.

K checkpoints · R trained networks · H held-out networks · D numbers in one flattened subset.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from core.checkpoints.subset import ParameterSubset, get_floating_entries
from core.runtime.errors import UserError
from core.runtime.seeding import derive_seed
from core.runtime.stage_progress import StageProgress
from core.runtime.trainer import MakeTrainer
from tasks.collecting.collection import (
    CollectedVectors,
    Collection,
    Optimization,
    PlannedNetwork,
    TrainedNetworks,
)
from tasks.data.splits import TaskData


@dataclass(frozen=True)
class IndependentCollection(Collection):
    """The final weights of whole networks that are trained from different seeds.

    Args:
        runs: R, the number of networks to train.
        held_out: H, the number of further networks to train, whose weights are held out.
    """

    runs: int
    held_out: int = 0

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "IndependentCollection":
        """Build this way to collect from the `task.collect` section, ignoring the options of collecting by steps."""
        return cls(config["runs"], config.get("held_out", 0))

    def to_config(self) -> dict[str, Any]:
        """Return the `task.collect` section that chooses this way to collect."""
        return {"kind": "independent", "runs": self.runs, "held_out": self.held_out}

    def record(self) -> str:
        """Return "independent" alone, because the number of networks does not change the weights of any network."""
        return "independent"

    def check(self, k: int, precision: str) -> None:
        """Check that there are at least `k` networks, since each gives one checkpoint; raises `UserError`."""
        if k > self.runs:
            raise UserError(
                f"task.param.k={k} must be at most task.collect.runs={self.runs}, as each network gives one "
                f"checkpoint. Set task.collect.runs={k}, or remove task.param.k to use all {self.runs} networks"
            )

    def plan_networks(self, seed: int) -> list[PlannedNetwork]:
        """Return R + H networks, each with its own seed."""
        return [
            PlannedNetwork(
                f"classifier_{index:03d}", derive_seed(seed, "independent", index), held_out=index >= self.runs
            )
            for index in range(self.runs + self.held_out)
        ]

    def check_subset(self, subset: ParameterSubset, configured: str | Sequence[str], model: nn.Module) -> None:
        """Check that the subset is the whole network; raises `UserError`.

        Independent networks differ everywhere, so a part of one network does not fit into another.
        """
        if subset.names != tuple(get_floating_entries(model)):
            raise UserError(
                f"task.param.subset={configured} cannot be used with task.collect=independent, because the networks "
                "also differ outside this subset. Set task.param.subset=all"
            )

    def pick_last_optimization(self, classifier_optimization: Optimization) -> Optimization:
        """Return the optimizer and the batch size of the classifiers."""
        return classifier_optimization

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
        """Return the final weights of every trained network, (R, D), including networks after the K-th."""
        if progress is not None:
            progress.skip()
        assert trained.files is not None
        networks = torch.arange(self.runs + self.held_out)
        origin = torch.stack([networks, torch.full_like(networks, trained.num_steps)], dim=1)
        return CollectedVectors(
            trained.files.open_rows(),
            origin[: self.runs],
            trained.files.open_held_out(),
            origin[self.runs :] if self.held_out else None,
        )
