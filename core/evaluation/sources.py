"""All sources of weights that are scored, made from the checkpoints and the generator.

K checkpoints · M models · D numbers in one flattened subset.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from core.checkpoints.checkpoint_set import CheckpointSet
from core.checkpoints.normalizer import Normalizer
from core.evaluation.audit import find_origins
from core.evaluation.kinds import (
    AVERAGE,
    CONTINUED,
    EMA,
    ENSEMBLE,
    FINETUNED,
    GENERATED,
    HELD_OUT,
    LAWA,
    NOISED,
    ORIGINAL,
    RECONSTRUCTED,
    SWAG,
    Kind,
)
from core.evaluation.metrics import choose_evenly
from core.evaluation.scores import ScoreFn
from core.generation import baselines
from core.generation.generator import WeightGenerator
from core.runtime.content_hash import hash_tensor
from core.runtime.seeding import generator_for
from core.runtime.source_code import digest_code, locate

SEEDING = "core/runtime/seeding.py"
EVERY_SPLIT = ("train", "val", "test")  # Selection of one model of a source needs all splits.
VAL_AND_TEST = ("val", "test")


class UnavailableSource(Exception):
    """The reason why the models of a source cannot be made; the source is then left out."""


@dataclass(frozen=True)
class SourceOptions:
    """The number of models of each source and how they are made: the `evaluation` section of the configuration."""

    num_baselines: int = 30  # models of each baseline that is drawn at random, and at most as many reconstructed ones
    noise: Sequence[float] = (0.05,)  # σ of each noised baseline, relative to the std of each tensor
    average_of: int = 16  # checkpoints in each average, limited to half of all checkpoints, but at least 2
    num_finetuned: int = 10  # models of each fine-tuned source and of the Laplace posterior; 0 leaves these out
    finetune_steps: Sequence[int] | int = (
        5,
        50,
    )  # training steps of each fine-tuned source; older files hold one number
    num_train_images: int = 200  # training images whose loss can choose a model
    soup_candidates: int = 50  # models that a greedy soup tries, best on validation first
    num_trajectories: int = 4  # reverse processes whose accuracy is recorded
    ood: Sequence[str] | str = ()  # other datasets whose images belong to no class, which the task opens
    deep_ensemble: int = 0  # whole networks of the deep ensemble

    @property
    def finetune_lengths(self) -> list[int]:
        """The different values of `finetune_steps`, in ascending order."""
        return sorted({self.finetune_steps} if isinstance(self.finetune_steps, int) else set(self.finetune_steps))


@dataclass(frozen=True)
class Source:
    """A set of models with a common origin."""

    name: str
    kind: Kind
    make: Callable[[], Tensor]  # returns the vectors (M, D), or raises `UnavailableSource`
    splits: tuple[str, ...] = VAL_AND_TEST  # splits on which the source is scored
    needs_generator: bool = False  # If False, all runs over the same checkpoints share its scores.
    # Digests of the source code that makes the vectors. The generator's own code is known to the store of the tables.
    code: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)  # that decide the vectors of this source alone
    # Scoring functions of a source whose networks differ outside of the subset; None uses the functions of the task.
    score_fns: Mapping[str, ScoreFn] | None = None
    num_models: int = 1  # M, which decides the progress of scoring
    # Gradients of one batch that one model costs after the K checkpoints; None if this is unknown or has no meaning.
    gradient_evaluations: float | None = None
    training_images: int = 0  # images that the training of one model sees, which decide the progress of scoring
    # The columns of the made vectors that the table keeps, for a source that makes whole networks; None keeps all.
    columns_D: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Material:
    """The inputs from which all sources are made."""

    checkpoints: CheckpointSet
    generator: WeightGenerator
    generated_MD: Tensor
    options: SourceOptions
    seed: int
    training_steps: int | None = None  # optimizer steps of the generator's training, over all its stages


def list_sources(material: Material) -> list[Source]:
    """Return all sources that need neither images nor scores; each draws from its own random generator when it is made.

    The task adds the sources that are trained on images, and `core.evaluation.soup` adds the greedy soups.
    """
    vectors_KD, options = material.checkpoints.vectors_KD, material.options
    num_generated, num_reconstructed = len(material.generated_MD), min(len(vectors_KD), options.num_baselines)
    return [
        Source(ORIGINAL, Kind.ORIGINAL, lambda: vectors_KD, EVERY_SPLIT, num_models=len(vectors_KD)),
        list_one_model(ENSEMBLE, baselines.ensemble, vectors_KD, EVERY_SPLIT),
        Source(
            GENERATED,
            Kind.GENERATED,
            lambda: material.generated_MD,
            EVERY_SPLIT,
            needs_generator=True,
            num_models=num_generated,
            gradient_evaluations=material.training_steps and material.training_steps / num_generated,
        ),
        Source(
            RECONSTRUCTED,
            Kind.RECONSTRUCTED,
            lambda: material.generator.reconstruct(vectors_KD[choose_evenly(len(vectors_KD), num_reconstructed)]),
            ("test",),
            needs_generator=True,
            num_models=num_reconstructed,
        ),
        *list_free_baselines(material.checkpoints, options, material.seed),
        *list_held_out(material.checkpoints),
    ]


def choose_checkpoints(vectors_KD: Tensor, num_models: int, seed: int) -> Tensor:
    """Return the random checkpoints (M, D) from which fine-tuning starts."""
    return vectors_KD[baselines.choose(len(vectors_KD), num_models, generator_for(seed, FINETUNED))]


def have_order(checkpoints: CheckpointSet) -> bool:
    """Return whether the checkpoints are known to be successive steps of one training; a single one has no order."""
    origins = find_origins(checkpoints)
    return origins is not None and origins.one_training


def list_held_out(checkpoints: CheckpointSet) -> list[Source]:
    """Return the held-out checkpoints of the audit as a source, or nothing if there are none.

    They are called "continued" if they are further steps of the trainings of the originals, and "held_out" if they come
    from other trainings. Checkpoints of unknown origin may be either, so they are left out.
    """
    vectors_HD, origins = checkpoints.audit_HD, find_origins(checkpoints)
    if vectors_HD is None or not len(vectors_HD) or origins is None or origins.held_out_H2 is None:
        return []
    original_K2, held_out_H2 = origins.original_K2, origins.held_out_H2
    return [
        Source(
            CONTINUED if np.isin(held_out_H2[:, 0], original_K2[:, 0]).all() else HELD_OUT,
            Kind.TRAINED,
            lambda: vectors_HD,
            # The fingerprint of the checkpoints does not cover held-out vectors.
            settings={"held_out": hash_tensor(vectors_HD)},
            num_models=len(vectors_HD),
            gradient_evaluations=count_further_steps(original_K2, held_out_H2) / len(vectors_HD),
        )
    ]


def count_further_steps(original_K2: np.ndarray, held_out_H2: np.ndarray) -> int:
    """Return the optimizer steps that the held-out checkpoints cost together, beyond those of the originals.

    Each training counts from its last original, or from its beginning if it gave none, to its last held-out checkpoint.
    """

    def find_end(origin_K2: np.ndarray, training: int) -> int:
        return int(origin_K2[origin_K2[:, 0] == training, 1].max(initial=0))

    trainings = np.unique(held_out_H2[:, 0]).tolist()
    return sum(find_end(held_out_H2, training) - find_end(original_K2, training) for training in trainings)


def list_one_model(
    name: str, baseline: Callable[[Tensor], Tensor], vectors_KD: Tensor, splits: tuple[str, ...] = VAL_AND_TEST
) -> Source:
    """Return a baseline that makes one model from the checkpoints without random numbers."""
    code = digest_code([locate(baseline)])
    make = partial(baseline, vectors_KD)
    return Source(name, Kind.FREE, make, splits, code=code, gradient_evaluations=0.0)


def list_free_baselines(checkpoints: CheckpointSet, options: SourceOptions, seed: int) -> list[Source]:
    """Return the sources that are computed from the checkpoints without gradients.

    `ema` and `lawa` average the latest checkpoints, so they are left out where the checkpoints have no order.
    """
    subset, count = checkpoints.subset, options.num_baselines
    # At most half of the checkpoints, because the mean of nearly all of them is the same as the ensemble.
    group = min(options.average_of, max(2, len(checkpoints) // 2))

    def list_one(
        name: str,
        baseline: Callable[..., Tensor],
        *arguments: object,
        purpose: str | None = None,
        log_map: Normalizer | None = None,
    ) -> Source:
        make = partial(
            draw_models,
            baseline,
            checkpoints,
            arguments,
            num_models=count,
            seed=seed,
            purpose=purpose or name,
            log_map=log_map,
        )
        used: list[Callable[..., Any]] = [
            baseline,
            draw_models,
            baselines.clamp_variances,
            baselines.make_log_map,
            Normalizer,
        ]
        code = digest_code([*(locate(function) for function in used), SEEDING])
        return Source(name, Kind.FREE, make, code=code, num_models=count, gradient_evaluations=0.0)

    log_map = baselines.make_log_map(subset)
    latest = (EMA, baselines.ema), (LAWA, baselines.lawa)
    return [
        *(list_one(f"{NOISED}_{sigma:g}", baselines.noised, subset, sigma) for sigma in options.noise),
        list_one(f"{AVERAGE}_{group}", baselines.average, group, purpose=AVERAGE),
        list_one("interpolated", baselines.interpolated),
        list_one("gaussian", baselines.gaussian, log_map=log_map),
        list_one("gaussian_full", baselines.gaussian_full, log_map=log_map),
        list_one(SWAG, baselines.swag, log_map=log_map),
        *(
            list_one_model(name, baseline, checkpoints.vectors_KD)
            for name, baseline in (latest if have_order(checkpoints) else ())
        ),
    ]


def draw_models(
    baseline: Callable[..., Tensor],
    checkpoints: CheckpointSet,
    arguments: Sequence[object],
    *,
    num_models: int,
    seed: int,
    purpose: str,
    log_map: Normalizer | None = None,
) -> Tensor:
    """Return the models (M, D) that a baseline draws from the checkpoints.

    Args:
        baseline: A function of `core.generation.baselines` that takes `num_models` and `generator`.
        checkpoints: The checkpoints.
        arguments: The arguments of the baseline after the vectors.
        num_models: M.
        seed: The seed of the run, which decides the models together with `purpose`.
        purpose: The purpose of the random numbers.
        log_map: The map behind which the baseline draws; None for a baseline that draws the weights themselves, whose
            negative running variances are set to 0.
    """
    generator = generator_for(seed, purpose)
    vectors_KD = checkpoints.vectors_KD if log_map is None else log_map.normalize(checkpoints.vectors_KD)
    vectors_MD = baseline(vectors_KD, *arguments, num_models=num_models, generator=generator)
    if log_map is not None:
        return log_map.unnormalize(vectors_MD)
    return baselines.clamp_variances(vectors_MD, checkpoints.subset)
