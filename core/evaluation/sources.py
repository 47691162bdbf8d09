"""What is scored: every source of weights by name, built from the checkpoints and the generator alone.

K checkpoints · M models · D numbers in one flattened subset.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from core.checkpoints.checkpoint_set import CheckpointSet
from core.generation import baselines
from core.generation.generator import WeightGenerator
from core.runtime.seeding import generator_for

MakeVectors = Callable[[], Tensor]


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


def sources(
    checkpoints: CheckpointSet,
    generator: WeightGenerator,
    sample: MakeVectors,
    finetune: Callable[[Tensor], Tensor],
    options: SourceOptions,
    seed: int,
) -> Mapping[str, MakeVectors]:
    """By name, what makes the vectors (M, D) of each source; each draws from a random generator of its own.

    Args:
        sample: makes the p_diff vectors.
        finetune: trains vectors (M, D) on for `options.finetune_steps`; it needs images, which this package never sees.
    """
    vectors_KD, subset, count = checkpoints.vectors_KD, checkpoints.subset, options.num_baselines
    group = min(options.average_of, max(2, len(checkpoints) // 2))  # means of nearly all K would be the ensemble again

    def drawn(baseline: Callable[..., Tensor], name: str, *arguments: object) -> Tensor:
        return baselines.without_negative_variances(
            baseline(vectors_KD, *arguments, count, generator_for(seed, name)), subset
        )

    made: dict[str, MakeVectors] = {
        "original": lambda: vectors_KD,
        "ensemble": lambda: baselines.ensemble(vectors_KD),
        "p_diff": sample,
        "reconstructed": lambda: generator.reconstruct(vectors_KD),
    }
    for sigma in options.noise:
        made[f"noised_{sigma:g}"] = lambda sigma=sigma: drawn(baselines.noised, f"noised_{sigma:g}", subset, sigma)
    made[f"average_{group}"] = lambda: baselines.average(vectors_KD, group, count, generator_for(seed, "average"))
    made["interpolated"] = lambda: baselines.interpolated(vectors_KD, count, generator_for(seed, "interpolated"))
    made["gaussian"] = lambda: drawn(baselines.gaussian, "gaussian")
    made["gaussian_full"] = lambda: drawn(baselines.gaussian_full, "gaussian_full")
    made["finetuned"] = lambda: finetune(
        vectors_KD[baselines.choose(len(vectors_KD), count, generator_for(seed, "finetuned"))]
    )
    return made
