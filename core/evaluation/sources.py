"""All sources of weights that are scored, made from the checkpoints and the generator.

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


@dataclass(frozen=True, kw_only=True)
class Material:
    """The inputs from which all sources are made."""

    checkpoints: CheckpointSet
    generator: WeightGenerator
    generated_MD: Tensor
    options: SourceOptions
    seed: int


def list_sources(material: Material, finetune: Callable[[Tensor], Tensor]) -> list[Source]:
    """Return all sources except the soups; each source draws from its own random generator when it is made.

    Args:
        material: Inputs from which the sources are made.
        finetune: Trains vectors (M, D) further and returns them. It is passed in because it needs images.
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
        *list_free_baselines(material.checkpoints, options, seed),
        Source(
            FINETUNED,
            Kind.TRAINED,
            lambda: finetune(
                vectors_KD[baselines.choose(len(vectors_KD), options.num_baselines, generator_for(seed, FINETUNED))]
            ),
        ),
    ]


def list_free_baselines(checkpoints: CheckpointSet, options: SourceOptions, seed: int) -> list[Source]:
    """Return the sources that draw many models from the checkpoints without training."""
    vectors_KD, subset, count = checkpoints.vectors_KD, checkpoints.subset, options.num_baselines
    # At most half of the checkpoints, because the mean of nearly all of them is the same as the ensemble.
    group = min(options.average_of, max(2, len(checkpoints) // 2))

    def draw(baseline: Callable[..., Tensor], name: str, *arguments: object) -> Tensor:
        vectors_MD = baseline(vectors_KD, *arguments, num_models=count, generator=generator_for(seed, name))
        return baselines.clamp_variances(vectors_MD, subset)

    noised = {f"{NOISED}_{sigma:g}": sigma for sigma in options.noise}
    makers: dict[str, Callable[[], Tensor]] = {
        **{name: partial(draw, baselines.noised, name, subset, sigma) for name, sigma in noised.items()},
        f"{AVERAGE}_{group}": lambda: baselines.average(
            vectors_KD, group, num_models=count, generator=generator_for(seed, AVERAGE)
        ),
        "interpolated": lambda: baselines.interpolated(vectors_KD, count, generator_for(seed, "interpolated")),
        "gaussian": partial(draw, baselines.gaussian, "gaussian"),
        "gaussian_full": partial(draw, baselines.gaussian_full, "gaussian_full"),
    }
    return [Source(name, Kind.FREE, make) for name, make in makers.items()]
