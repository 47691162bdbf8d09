"""All sources of weights that are scored, made from the checkpoints and the generator.

K checkpoints · M models · D numbers in one flattened subset.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor

from core.checkpoints.checkpoint_set import CheckpointSet
from core.evaluation.kinds import AVERAGE, ENSEMBLE, FINETUNED, GENERATED, NOISED, ORIGINAL, RECONSTRUCTED, Kind
from core.evaluation.scores import ScoreFn
from core.generation import baselines
from core.generation.generator import WeightGenerator
from core.runtime.seeding import generator_for
from core.runtime.source_code import digest_code, locate

SEEDING = "core/runtime/seeding.py"
EVERY_SPLIT = ("train", "val", "test")  # Selection of one model of a source needs all splits.


@dataclass(frozen=True)
class SourceOptions:
    """The number of models of each baseline and how they are made: the `evaluation` section of the configuration."""

    num_baselines: int = 50  # models of each baseline that is drawn at random
    noise: Sequence[float] = (0.05,)  # σ of each noised baseline, relative to the std of each tensor
    average_of: int = 16  # checkpoints in each average, limited to half of all checkpoints, but at least 2
    finetune_steps: int = 5  # training steps of the finetuned baseline
    num_train_images: int = 200  # training images whose loss can choose a model
    soup_candidates: int = 50  # models that a greedy soup tries, best on validation first
    num_trajectories: int = 4  # reverse processes whose accuracy is recorded


@dataclass(frozen=True)
class Source:
    """A set of models with a common origin."""

    name: str
    kind: Kind
    make: Callable[[], Tensor]  # returns the vectors (M, D)
    splits: tuple[str, ...] = ("test",)  # splits on which the source is scored
    needs_generator: bool = False  # If False, all runs over the same checkpoints share its scores.
    # Digests of the source code that makes the vectors. The generator's own code is known to the store of the tables.
    code: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)  # that decide the vectors of this source alone
    # Scoring functions of a source whose networks differ outside of the subset; None uses the functions of the task.
    score_fns: Mapping[str, ScoreFn] | None = None


@dataclass(frozen=True, kw_only=True)
class Finetuning:
    """The training of the fine-tuned baseline, which is passed in because it needs images."""

    train: Callable[[Tensor], Tensor]  # trains vectors (M, D) further and returns them
    num_images: int  # images that one model sees
    settings: Mapping[str, Any]  # the optimizer and the batch size
    code: Mapping[str, str]  # digests of the source code that trains


@dataclass(frozen=True, kw_only=True)
class Material:
    """The inputs from which all sources are made."""

    checkpoints: CheckpointSet
    generator: WeightGenerator
    generated_MD: Tensor
    options: SourceOptions
    seed: int


def list_sources(material: Material, finetuning: Finetuning) -> list[Source]:
    """Return all sources except the soups; each source draws from its own random generator when it is made.

    Args:
        material: Inputs from which the sources are made.
        finetuning: The training of the fine-tuned baseline.
    """
    vectors_KD, options, seed = material.checkpoints.vectors_KD, material.options, material.seed
    return [
        Source(ORIGINAL, Kind.ORIGINAL, lambda: vectors_KD, EVERY_SPLIT),
        Source(
            ENSEMBLE,
            Kind.FREE,
            lambda: baselines.ensemble(vectors_KD),
            EVERY_SPLIT,
            code=digest_code([locate(baselines.ensemble)]),
        ),
        Source(GENERATED, Kind.GENERATED, lambda: material.generated_MD, EVERY_SPLIT, needs_generator=True),
        Source(
            RECONSTRUCTED,
            Kind.RECONSTRUCTED,
            lambda: material.generator.reconstruct(vectors_KD),
            needs_generator=True,
        ),
        *list_free_baselines(material.checkpoints, options, seed),
        Source(
            FINETUNED,
            Kind.TRAINED,
            lambda: finetuning.train(choose_checkpoints(vectors_KD, options.num_baselines, seed)),
            code={**digest_code([locate(choose_checkpoints), locate(baselines.choose), SEEDING]), **finetuning.code},
            settings=finetuning.settings,
        ),
    ]


def choose_checkpoints(vectors_KD: Tensor, num_models: int, seed: int) -> Tensor:
    """Return the random checkpoints (M, D) from which fine-tuning starts."""
    return vectors_KD[baselines.choose(len(vectors_KD), num_models, generator_for(seed, FINETUNED))]


def list_free_baselines(checkpoints: CheckpointSet, options: SourceOptions, seed: int) -> list[Source]:
    """Return the sources that draw many models from the checkpoints without training."""
    subset, count = checkpoints.subset, options.num_baselines
    # At most half of the checkpoints, because the mean of nearly all of them is the same as the ensemble.
    group = min(options.average_of, max(2, len(checkpoints) // 2))

    def list_one(name: str, baseline: Callable[..., Tensor], *arguments: object, purpose: str | None = None) -> Source:
        make = partial(
            draw_models, baseline, checkpoints, arguments, num_models=count, seed=seed, purpose=purpose or name
        )
        code = digest_code([locate(baseline), locate(draw_models), locate(baselines.clamp_variances), SEEDING])
        return Source(name, Kind.FREE, make, code=code)

    return [
        *(list_one(f"{NOISED}_{sigma:g}", baselines.noised, subset, sigma) for sigma in options.noise),
        list_one(f"{AVERAGE}_{group}", baselines.average, group, purpose=AVERAGE),
        list_one("interpolated", baselines.interpolated),
        list_one("gaussian", baselines.gaussian),
        list_one("gaussian_full", baselines.gaussian_full),
    ]


def draw_models(
    baseline: Callable[..., Tensor],
    checkpoints: CheckpointSet,
    arguments: Sequence[object],
    *,
    num_models: int,
    seed: int,
    purpose: str,
) -> Tensor:
    """Return the models (M, D) that a baseline draws from the checkpoints.

    Args:
        baseline: A function of `core.generation.baselines` that takes `num_models` and `generator`.
        checkpoints: The checkpoints.
        arguments: The arguments of the baseline after the vectors.
        num_models: M.
        seed: The seed of the run, which decides the models together with `purpose`.
        purpose: The purpose of the random numbers.
    """
    generator = generator_for(seed, purpose)
    vectors_MD = baseline(checkpoints.vectors_KD, *arguments, num_models=num_models, generator=generator)
    return baselines.clamp_variances(vectors_MD, checkpoints.subset)
