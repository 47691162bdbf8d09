"""Range checks of all numbers in the configuration, made before any work starts.

Other packages do not check these numbers again. The exceptions are classes that may also be built from a stored file
(networks, the noise schedule) and the set of checkpoints, which knows how many it holds.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from core.runtime.errors import UserError


@dataclass(frozen=True)
class Range:
    """The values that a numeric setting may have: numbers from `least` to `most`, including both ends unless `open`."""

    least: float = -math.inf
    most: float = math.inf
    whole: bool = True
    infinite: bool = False  # whether infinity is allowed
    open: bool = False  # whether both ends are excluded
    listed: bool = False  # whether the value is a list of numbers in the range
    single: bool = False  # whether one number is allowed in place of the list
    optional: bool = False  # whether null is also allowed
    words: tuple[str, ...] = ()  # words that are also allowed

    def admits(self, value: Any) -> bool:
        """Return whether a configuration value is in the range; true and false do not count as numbers."""
        if value is None or isinstance(value, str):
            return self.optional if value is None else value in self.words
        if isinstance(value, list):
            return self.listed and all(map(self._admits_one, value))
        return (self.single or not self.listed) and self._admits_one(value)

    def _admits_one(self, value: Any) -> bool:
        if type(value) not in ((int,) if self.whole else (int, float)) or (math.isinf(value) and not self.infinite):
            return False
        return self.least < value < self.most if self.open else self.least <= value <= self.most

    def __str__(self) -> str:
        """Return the range in words, for error messages."""
        kind = "whole number" if self.whole else "number"
        words = f"a list of {kind}s" if self.listed else f"a {kind}"
        if math.isfinite(self.most):
            words += f" between {self.least:g} and {self.most:g}"
        elif math.isfinite(self.least):
            words += f" above {self.least:g}" if self.open else f" of at least {self.least:g}"
        words += ", or one number" if self.single else ""
        return words + (", or null" if self.optional else "") + "".join(f", or {word}" for word in self.words)


ABSENT = object()
WHOLE, COUNT, NOT_NEGATIVE = Range(), Range(1), Range(0, whole=False)
STEPS = Range(1, 100_000)  # the timesteps of a noise schedule, which holds an array of them

RANGES: Mapping[str, Range] = {
    "seed": WHOLE,
    "generation.num_models": COUNT,
    "generation.batch_size": COUNT,
    "generation.num_exported": Range(0),
    "evaluation.num_baselines": COUNT,
    "evaluation.noise": Range(0, whole=False, listed=True),
    "evaluation.average_of": COUNT,
    "evaluation.num_finetuned": Range(0),
    "evaluation.finetune_steps": Range(1, listed=True, single=True),
    "evaluation.num_train_images": COUNT,
    "evaluation.soup_candidates": COUNT,
    "evaluation.num_trajectories": COUNT,
    "evaluation.deep_ensemble": Range(0),
    "scoring.batch_size": Range(1, words=("auto",)),
    "scoring.cache_bytes": Range(0, whole=False, infinite=True, words=("auto",)),
    "system.batch_size": Range(2),
    "system.autoencoder_steps": COUNT,
    "system.autoencoder_optimizer.lr": NOT_NEGATIVE,
    "system.autoencoder_optimizer.weight_decay": NOT_NEGATIVE,
    "system.diffusion_steps": COUNT,
    "system.denoiser_optimizer.lr": NOT_NEGATIVE,
    "system.denoiser_optimizer.weight_decay": NOT_NEGATIVE,
    "system.ema_decay": Range(0, 1, whole=False, optional=True),
    "system.schedule.num_timesteps": STEPS,
    "system.sampler.num_steps": STEPS,
    "task.seed": WHOLE,
    "task.epochs": Range(0),
    "task.batch_size": COUNT,
    "task.optimizer.lr": NOT_NEGATIVE,
    "task.optimizer.weight_decay": NOT_NEGATIVE,
    "task.warmup_steps": Range(1, optional=True),
    "task.gradient_clip": Range(0, whole=False, open=True, optional=True),
    "task.model.lora.rank": Range(1, optional=True),
    "task.model.lora.alpha": Range(0, whole=False, open=True, optional=True),
    "task.data.val_fraction": Range(0, 1, whole=False, open=True),
    "task.data.split_seed": Range(0, 2**31),  # the largest seed of scikit-learn is above
    "task.data.mean": Range(whole=False, listed=True, single=True, optional=True),
    "task.data.std": Range(0, whole=False, open=True, listed=True, single=True, optional=True),
    "task.data.image_size": Range(1, optional=True),
    "task.data.num_workers": Range(0, 256, words=("auto",)),
    "task.collect.batch_size": COUNT,
    "task.collect.optimizer.lr": NOT_NEGATIVE,
    "task.collect.optimizer.weight_decay": NOT_NEGATIVE,
    "task.collect.runs": Range(2),
    "task.collect.held_out": Range(0),
    "task.param.k": Range(2),
    "task.param.count": COUNT,
}


def check_ranges(cfg: DictConfig) -> None:
    """Check every number in the configuration against `RANGES`.

    Raises:
        UserError: A value is outside its range or not a number.
    """
    for name, expected in RANGES.items():
        given = OmegaConf.select(cfg, name, default=ABSENT)
        if OmegaConf.is_config(given):
            given = OmegaConf.to_container(given)
        if given is not ABSENT and not expected.admits(given):
            raise UserError(f"{name}={'null' if given is None else given} is invalid: expected {expected}")
