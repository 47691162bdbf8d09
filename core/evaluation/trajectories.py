"""The accuracy of models while they are generated, along the reverse process (p-diff, Fig. 5b).

T trajectories · S recorded steps · D numbers in one flattened subset.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core.evaluation.scores import ScoreFn
from core.generation.generator import WeightGenerator
from core.runtime.arrays import open_arrays, save_arrays
from core.runtime.errors import UserError

RECORDED_STEPS = 12  # spread evenly over the sampler's steps, including the first and the last


@dataclass(frozen=True)
class Trajectories:
    """The validation accuracy of the decoded x_t at each recorded step."""

    timesteps_S: np.ndarray  # in the order of sampling, from noise to weights
    accuracy_TS: np.ndarray  # in [0, 1]

    def save(self, path: Path) -> None:
        """Write one npz atomically."""
        save_arrays(path, {"timesteps_S": self.timesteps_S, "accuracy_TS": self.accuracy_TS})

    @classmethod
    def load(cls, path: Path) -> "Trajectories":
        """Read a file that `save` wrote.

        Raises:
            UserError: The file is missing or damaged, or the shapes of its arrays do not match.
        """
        with open_arrays(path, content="trajectories", advice="Run train_p_diff.py mode=test again") as file:
            timesteps_S, accuracy_TS = file["timesteps_S"], file["accuracy_TS"]
        if accuracy_TS.ndim != 2 or timesteps_S.shape != accuracy_TS.shape[1:] or accuracy_TS.size == 0:
            raise UserError(
                f"{path} has timesteps_S of shape {timesteps_S.shape} and accuracy_TS of shape {accuracy_TS.shape}, "
                "expected (S,) and (T, S) with S and T at least 1. Run train_p_diff.py mode=test again"
            )
        return cls(timesteps_S, accuracy_TS)


def record_trajectories(
    generator: WeightGenerator, score_fn: ScoreFn, *, seed: int, num_trajectories: int
) -> Trajectories:
    """Generate the first models of a seed again and score the decoded x_t at some steps on the way."""
    steps: list[tuple[float, Tensor]] = []
    generator.sample(
        seed, range(num_trajectories), batch_size=num_trajectories, on_step=lambda t, x_TL: steps.append((t, x_TL))
    )
    chosen = np.unique(np.linspace(0, len(steps) - 1, RECORDED_STEPS).round().astype(int))
    vectors = torch.cat([generator.decode(steps[index][1]).cpu() for index in chosen])
    accuracy_TS = score_fn(vectors).accuracy_M.reshape(len(chosen), num_trajectories).T
    return Trajectories(np.array([steps[index][0] for index in chosen]), accuracy_TS)
