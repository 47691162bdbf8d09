"""Copying: whether the models of a source copy, average or sample the originals, measured against honest checkpoints.

M models · K originals · D numbers in one vector.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from core.checkpoints.symmetry import PermutationSymmetry
from core.evaluation.metrics import Spacing, l2_matrix, min_l2, multiply_deviations
from core.evaluation.scores import Scores, ScoreTable
from core.evaluation.yardstick import Yardstick, measure_ratios

MOST = 0.5  # share of models above which a source copies
# The mean of g independent originals deviates by 1 / √g from their mean, which is 0.71 for pairs.
AVERAGED = 0.75
TINY = 0.05  # spread of a collapsed source, relative to the originals
NARROW = 0.25  # spread of a collapsed source relative to its deviation, which equals the spread for an honest sampler
ROUNDING = 1e-10  # share of the originals' squared deviation below which a squared deviation is rounding


class Behavior(StrEnum):
    """The relation of the models of a source to the originals."""

    COPIES = "copies"  # most models are nearer to an original than honest checkpoints are
    COLLAPSED = "collapsed"  # the models are nearly one point, or most of them repeat another model
    AVERAGES = "averages"  # the models lie much nearer to the mean of the originals than the originals do
    SAMPLES = "samples"  # none of these


@dataclass(frozen=True)
class Closeness:
    """The relation of one source to the originals."""

    source: str
    weights: float  # median over models of the nearest / median distance to the originals
    function: float | None  # the same for the share of test images on which exactly one of two models errs
    copies: float  # share of models below the yardstick, in weights or in function
    deviation: float  # median distance from the mean of the originals, relative to that of the originals
    spread: float | None  # mean distance between two models, relative to that of two originals; None for one model
    outside_span: float | None  # see `measure_outside_span`
    behavior: Behavior
    left_out: int = 0  # number of models whose weights are not finite, for which nothing of this is measured


def select_finite(table: ScoreTable) -> ScoreTable:
    """Return a table of the models whose weights are all finite, because a NaN has no distance to anything.

    Only what distances are measured on is kept: the vectors, and the errors of each split.
    """
    finite_M = np.isfinite(table.vectors_MD).all(axis=1)
    if finite_M.all():
        return table
    scores = {
        split: Scores(
            each.accuracy_M[finite_M],
            each.loss_M[finite_M],
            None if each.wrong_MN is None else each.wrong_MN[finite_M],
            metric=each.metric,
        )
        for split, each in table.scores.items()
    }
    return replace(table, vectors_MD=table.vectors_MD[finite_M], scores=scores)


def measure_closeness(
    table: ScoreTable,
    original: ScoreTable,
    yardstick: Yardstick,
    *,
    apart_MK: np.ndarray | None = None,
    symmetry: PermutationSymmetry | None = None,
) -> Closeness:
    """Measure how the models of a source relate to the originals, of which at least two differ.

    A generated model belongs to no step, so all originals count for it.

    Args:
        table: Scores of the source on "test".
        original: Scores of the originals on "test".
        yardstick: Ratios of honest checkpoints.
        apart_MK: Which originals count for each model; None: all. For the originals themselves it comes from
            `core.evaluation.yardstick.pair_originals`.
        symmetry: Groups of units that are matched before distances are taken. The units of all vectors must already be
            in a common order, for the measures that compare more than two vectors. None matches nothing.
    """
    weights_M, function_M = measure_ratios(table, original, apart_MK, symmetry)
    # Two continuous vectors are not equal by chance, so an exact copy counts even if two originals are equal.
    copies_M = (weights_M < yardstick.weights_low) | (weights_M == 0)
    if function_M is not None and yardstick.function_low is not None:
        copies_M |= function_M < yardstick.function_low
    copies = float(copies_M.mean())
    deviation = measure_deviation(table.vectors_MD, original.vectors_MD)
    spread, repeats = measure_spread(table.vectors_MD, original.vectors_MD)
    return Closeness(
        source=table.source,
        weights=float(np.median(weights_M)),
        function=None if function_M is None else float(np.median(function_M)),
        copies=copies,
        deviation=deviation,
        spread=spread,
        outside_span=measure_outside_span(table.vectors_MD, original.vectors_MD),
        behavior=classify(copies, deviation, spread, repeats),
    )


def measure_deviation(vectors_MD: np.ndarray, original_KD: np.ndarray) -> float:
    """Return the median distance of the models from the mean of the originals, relative to that of the originals."""
    mean_1D = original_KD.mean(axis=0, keepdims=True, dtype=np.float64)
    models_M, originals_K = (l2_matrix(vectors, mean_1D)[:, 0] for vectors in (vectors_MD, original_KD))
    return float(np.median(models_M) / np.median(originals_K[originals_K > 0]))


def measure_spread(vectors_MD: np.ndarray, original_KD: np.ndarray) -> tuple[float | None, bool]:
    """Return the mean distance between two models relative to two originals, and whether most models repeat another.

    A model repeats another one if their distance is below a quarter of the median distance of an original to its
    nearest original. The spread is None for a single model, which repeats nothing.
    """
    if len(vectors_MD) < 2:
        return None, False
    models, originals = (Spacing.measure(vectors) for vectors in (vectors_MD, original_KD))
    models_M, originals_K = (min_l2(vectors, vectors, same=True) for vectors in (vectors_MD, original_KD))
    return models.mean / originals.mean, bool(np.median(models_M) < NARROW * np.median(originals_K))


def measure_outside_span(vectors_MD: np.ndarray, original_KD: np.ndarray) -> float | None:
    """Return the share of the models' squared deviation from the mean that lies outside the span of the originals.

    The span holds all weighted sums of the originals whose weights add up to 1. The share is 0 for averages and
    interpolations. It is None if the originals span all D dimensions, so that nothing can lie outside, and if the
    models deviate from the mean by no more than rounding.
    """
    mean_1D = original_KD.mean(axis=0, keepdims=True, dtype=np.float64)
    # The eigenvectors of the K × K products replace a decomposition of the K × D deviations.
    values_R, axes_KR = np.linalg.eigh(multiply_deviations(original_KD, original_KD))
    kept_R = values_R > ROUNDING * values_R.max()
    total = float((l2_matrix(vectors_MD, mean_1D) ** 2).sum())
    if kept_R.sum() >= vectors_MD.shape[1] or total <= ROUNDING * len(vectors_MD) * values_R.max():
        return None
    inside_MR = multiply_deviations(vectors_MD, original_KD) @ axes_KR[:, kept_R] / np.sqrt(values_R[kept_R])
    return max(0.0, 1 - float((inside_MR**2).sum()) / total)


def classify(copies: float, deviation: float, spread: float | None, repeats: bool) -> Behavior:
    """Return the behavior of a source; the arguments are explained in `Closeness` and `measure_spread`.

    The order of the rules matters. Averages in many dimensions are nearer to their originals than honest checkpoints
    are. Two copies of the same original repeat each other. The rules are for generators: a few dozen consecutive steps
    of one training lie in one place, so they count as collapsed.
    """
    if spread is not None and (spread < TINY or spread < NARROW * deviation):
        return Behavior.COLLAPSED
    if deviation < AVERAGED:
        return Behavior.AVERAGES
    if copies > MOST:
        return Behavior.COPIES
    return Behavior.COLLAPSED if repeats else Behavior.SAMPLES
