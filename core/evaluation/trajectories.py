"""How good a model is while it is being generated: accuracy along the reverse process (p-diff, Fig. 5b).

T trajectories · S recorded steps · D numbers in one flattened subset.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core.evaluation.scores import ScoreFn
from core.generation.generator import WeightGenerator
from core.runtime.artifacts import replacing

RECORDED_STEPS = 12  # evenly over the sampler's steps, the first and the last among them


@dataclass(frozen=True)
class Trajectories:
    """Accuracy of the decoded x_t."""

    timesteps_S: np.ndarray
    accuracy_TS: np.ndarray

    def save(self, path: Path) -> None:
        """Write one npz, whole or not at all."""
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, timesteps_S=self.timesteps_S, accuracy_TS=self.accuracy_TS)


def follow(generator: WeightGenerator, seed: int, num_trajectories: int, score_fn: ScoreFn) -> Trajectories:
    """Generate the first models of a seed again and score what they would decode to on the way."""
    steps: list[tuple[int, Tensor]] = []
    generator.sample(
        seed, range(num_trajectories), batch_size=num_trajectories, on_step=lambda t, x_TL: steps.append((t, x_TL))
    )
    chosen = np.unique(np.linspace(0, len(steps) - 1, RECORDED_STEPS).round().astype(int))
    vectors = torch.cat([generator.decode(steps[index][1]).cpu() for index in chosen])
    accuracy_TS = score_fn(vectors).accuracy_M.reshape(len(chosen), num_trajectories).T
    return Trajectories(np.array([steps[index][0] for index in chosen]), accuracy_TS)
