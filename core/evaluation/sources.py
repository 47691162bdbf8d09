"""Every source of weights that is scored, built from the checkpoints and the generator alone.

K checkpoints · M models · D numbers in one flattened subset.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from core.checkpoints.checkpoint_set import CheckpointSet
from core.evaluation.kinds import AVERAGE, ENSEMBLE, FINETUNED, GENERATED, NOISED, ORIGINAL, RECONSTRUCTED, Kind
from core.generation import baselines
from core.generation.generator import WeightGenerator
from core.runtime.seeding import generator_for

EVERY_SPLIT = ("train", "val", "test")  # for the sources among which a model is chosen


@dataclass(frozen=True)
class SourceOptions:
    """How many models of each baseline are scored, and how they are made: the `evaluation` configuration."""

    num_baselines: int = 50
    noise: Sequence[float] = (0.05,)
    average_of: int = 16
    finetune_steps: int = 5
    num_train_images: int = 200  # whose loss is one of the ways to choose a model
    soup_candidates: int = 50  # models, from the best on validation down, that a greedy soup tries
    num_trajectories: int = 4  # reverse processes whose accuracy is followed


@dataclass(frozen=True)
class Source:
    """A set of models with one origin."""

    name: str
    kind: Kind
    make: Callable[[], Tensor]  # the vectors (M, D)
    splits: tuple[str, ...] = ("test",)  # on which it is scored
    needs_generator: bool = False  # else every generator of the same checkpoints is compared with the same models


@dataclass(frozen=True, kw_only=True)
class Material:
    """Everything that this package makes sources from."""

    checkpoints: CheckpointSet
    generator: WeightGenerator
    generated_MD: Tensor
    options: SourceOptions
    seed: int


def sources(material: Material, finetune: Callable[[Tensor], Tensor]) -> list[Source]:
    """Return all sources but the soups; each draws from a random generator of its own when it is made.

    Args:
        material: what they are made from.
        finetune: trains vectors (M, D) on; it needs images, which this package never sees.
    """
    vectors_KD, options, seed = material.checkpoints.vectors_KD, material.options, material.seed
    return [
        Source(ORIGINAL, Kind.ORIGINAL, lambda: vectors_KD, EVERY_SPLIT),
        Source(ENSEMBLE, Kind.FREE, lambda: baselines.ensemble(vectors_KD), EVERY_SPLIT),
        Source(GENERATED, Kind.GENERATED, lambda: material.generated_MD, EVERY_SPLIT, needs_generator=True),
        Source(
            RECONSTRUCTED,
            Kind.RECONSTRUCTED,
            lambda: material.generator.reconstruct(vectors_KD),
            needs_generator=True,
        ),
        *free_baselines(material.checkpoints, options, seed),
        Source(
            FINETUNED,
            Kind.TRAINED,
            lambda: finetune(
                vectors_KD[baselines.choose(len(vectors_KD), options.num_baselines, generator_for(seed, FINETUNED))]
            ),
        ),
    ]


def free_baselines(checkpoints: CheckpointSet, options: SourceOptions, seed: int) -> list[Source]:
    """Return what draws many models from the checkpoints without any training."""
    vectors_KD, subset, count = checkpoints.vectors_KD, checkpoints.subset, options.num_baselines
    group = min(options.average_of, max(2, len(checkpoints) // 2))  # means of nearly all K would be the ensemble again

    def drawn(baseline: Callable[..., Tensor], name: str, *arguments: object) -> Tensor:
        vectors_MD = baseline(vectors_KD, *arguments, num_models=count, generator=generator_for(seed, name))
        return baselines.without_negative_variances(vectors_MD, subset)

    noised = {f"{NOISED}_{sigma:g}": sigma for sigma in options.noise}
    makers: dict[str, Callable[[], Tensor]] = {
        **{name: partial(drawn, baselines.noised, name, subset, sigma) for name, sigma in noised.items()},
        f"{AVERAGE}_{group}": lambda: baselines.average(
            vectors_KD, group, num_models=count, generator=generator_for(seed, AVERAGE)
        ),
        "interpolated": lambda: baselines.interpolated(vectors_KD, count, generator_for(seed, "interpolated")),
        "gaussian": partial(drawn, baselines.gaussian, "gaussian"),
        "gaussian_full": partial(drawn, baselines.gaussian_full, "gaussian_full"),
    }
    return [Source(name, Kind.FREE, make) for name, make in makers.items()]
