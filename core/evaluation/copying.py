"""Copying: whether the models of a source copy, average or sample the originals, measured against honest checkpoints.

M models · K originals · H held-out checkpoints · N images · D numbers in one vector.
"""

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from core.evaluation.metrics import (
    Spacing,
    disagreement_matrix,
    l2_matrix,
    min_l2,
    multiply_deviations,
    pair_with_others,
)
from core.evaluation.scores import ScoreTable
from core.evaluation.walk import autocorrelation_time, is_walk

QUANTILE = 0.05  # share of honest checkpoints that may lie below the yardstick
# A copy is also much nearer than a typical honest checkpoint. In many dimensions the honest distances hardly vary, and
# every imperfect sampler would lie below their 5% quantile.
NEARER = 0.6
FEWEST = 10  # fewer held-out checkpoints do not show a 5% quantile
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
class Origins:
    """The training and the optimizer step of each original and of each held-out checkpoint, int64."""

    original_K2: np.ndarray
    held_out_H2: np.ndarray | None = None

    @property
    def has_walks(self) -> bool:
        """Whether some originals are steps of the same training, which resemble their neighbors in time."""
        return len(np.unique(self.original_K2[:, 0])) < len(self.original_K2)

    @property
    def one_training(self) -> bool:
        """Whether all originals are steps of one training; a single original has no order."""
        return self.has_walks and len(np.unique(self.original_K2[:, 0])) == 1


@dataclass(frozen=True)
class Yardstick:
    """The distances of honest new checkpoints to the originals: the nearest relative to the median.

    The median makes distances comparable between sources that lie near the originals and sources that lie farther out.
    """

    held_out: bool  # whether held-out checkpoints were measured; False: only originals, against the other originals
    num_models: int  # number of held-out checkpoints, or of originals if none was measured
    lag: int  # least number of steps between an honest checkpoint and an original that it is compared with, or 0
    weights_low: float  # a model whose nearest / median distance lies below this is a copy
    function_low: float | None  # the same for the share of test images on which exactly one of two models errs


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


def measure_yardstick(original: ScoreTable, held_out: ScoreTable | None, origins: Origins | None) -> Yardstick | None:
    """Measure how near honest new checkpoints come to the originals.

    Neighboring steps of one training are almost equal, so they are no honest comparison. A checkpoint of the same
    training is therefore compared only with originals that lie at least a lag away in steps: the time in which the
    autocorrelation of the walk falls to 1/e (`measure_lag`). In simulated walks, up to 10% of honest new models then
    lie below the yardstick. Independent trainings need no lag. Originals of unknown origin, such as imported ones, get
    a lag if they are autocorrelated in their given order (`walk.is_walk`).

    A limit is the 5% quantile of the honest ratios, or 0.6 times their median if this is smaller. Held-out checkpoints
    give a limit if there are at least 10 of known origin. The originals give one, too, each against the other
    originals, which is just as honest, because no generator takes part. The smaller limit decides, because a few dozen
    consecutive held-out steps are only one place of the walk.

    Several trainings with several steps each are compared with a lag, too, within each training.

    K steps show no time longer than about K / 3, so the lag leaves most originals to compare with. Three cases are
    lenient, which means that fewer copies are found: a training that drifts through all K steps, fewer than about ten
    steps of one training, whose autocorrelation is not visible, and imported steps in a random order.

    Args:
        original: Scores of the originals on "test".
        held_out: Scores of the held-out checkpoints, in the order of `origins.held_out_H2`.
        origins: Origins of both; None if they are unknown.

    Returns:
        The yardstick, or None if there are fewer than 3 originals or all originals are equal.

    Raises:
        ValueError: The origins are not those of the tables' rows.
    """
    vectors_KD = original.vectors_MD
    if len(vectors_KD) < 3 or (vectors_KD == vectors_KD[0]).all():
        return None
    lag = measure_lag(vectors_KD, origins)
    original_K2 = number_rows(len(vectors_KD)) if origins is None else origins.original_K2
    ratios = [measure_ratios(original, original, are_apart(original_K2, original_K2, lag))]
    num_held_out = 0 if held_out is None else len(held_out.vectors_MD)
    if held_out is not None and num_held_out >= FEWEST and origins is not None and origins.held_out_H2 is not None:
        ratios.append(measure_ratios(held_out, original, are_apart(origins.held_out_H2, original_K2, lag)))
    functions = [function_H for _, function_H in ratios if function_H is not None]
    return Yardstick(
        held_out=len(ratios) == 2,
        num_models=num_held_out if len(ratios) == 2 else len(vectors_KD),
        lag=lag,
        weights_low=min(set_limit(weights_H) for weights_H, _ in ratios),
        function_low=min(map(set_limit, functions), default=None),
    )


def number_rows(k: int) -> np.ndarray:
    """Return origins (K, 2) that take rows of unknown origin as consecutive steps of one training."""
    return np.stack([np.zeros(k, np.int64), np.arange(k)], axis=1)


def measure_lag(vectors_KD: np.ndarray, origins: Origins | None) -> int:
    """Return the lag in optimizer steps, at which the autocorrelation of the originals has fallen to about 1/e.

    It is half of the integrated autocorrelation time, rounded up. Of several trainings the one with the longest time
    decides. The lag is 0 for trainings of one step each, and for originals of unknown origin that are not
    autocorrelated. Rows of unknown origin count as consecutive steps.
    """
    if origins is None:
        if not is_walk(vectors_KD):
            return 0
        origins = Origins(number_rows(len(vectors_KD)))
    training_K, steps_K = origins.original_K2.T
    lag = 0
    for training in np.unique(training_K):
        rows = np.flatnonzero(training_K == training)
        rows = rows[np.argsort(steps_K[rows])]
        if len(rows) > 1:
            every = int(np.median(np.diff(steps_K[rows])))
            lag = max(lag, every * math.ceil(autocorrelation_time(vectors_KD[rows]) / 2))
    return lag


def pair_originals(vectors_KD: np.ndarray, origins: Origins | None) -> np.ndarray:
    """Return which originals an original is compared with, (K, K).

    They are those at least a lag away (`measure_lag`), because neighboring steps of one training are almost equal. An
    original without such a partner is compared with all others.
    """
    origin_K2 = number_rows(len(vectors_KD)) if origins is None else origins.original_K2
    apart_KK = are_apart(origin_K2, origin_K2, measure_lag(vectors_KD, origins))
    return np.where(apart_KK.any(axis=1, keepdims=True), apart_KK, pair_with_others(len(vectors_KD)))


def are_apart(origin_M2: np.ndarray, reference_K2: np.ndarray, lag: int) -> np.ndarray:
    """Return which pairs (M, K) are of different trainings or at least `lag` steps apart; never a checkpoint itself."""
    training_MK, steps_MK = np.moveaxis(origin_M2[:, None] - reference_K2[None], -1, 0)
    return (training_MK != 0) | (abs(steps_MK) >= max(lag, 1))


def measure_ratios(
    table: ScoreTable, original: ScoreTable, apart_MK: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the nearest / median distance of each model to the originals, in weights and in function, two arrays (M,).

    The function is None if the task does not define errors per image. It does not depend on the order of hidden units,
    so it also finds a copy whose units are permuted.

    Args:
        table: Scores of the models on "test".
        original: Scores of the originals on "test".
        apart_MK: Which originals count for each model; None: all.
    """
    weights_M = relate_nearest(l2_matrix(table.vectors_MD, original.vectors_MD), apart_MK)
    wrong_MN, reference_KN = (each.scores["test"].wrong_MN for each in (table, original))
    if wrong_MN is None or reference_KN is None:
        return weights_M, None
    return weights_M, relate_nearest(disagreement_matrix(wrong_MN, reference_KN), apart_MK)


def relate_nearest(distance_MK: np.ndarray, apart_MK: np.ndarray | None = None) -> np.ndarray:
    """Return the smallest over the median of the distances that count in each row (M,); 0 if the smallest is 0.

    Rows with fewer than 2 distances that count are left out.
    """
    if apart_MK is not None:
        distance_MK = np.where(apart_MK, distance_MK, np.nan)[apart_MK.sum(axis=1) >= 2]
    nearest_M, median_M = np.nanmin(distance_MK, axis=1), np.nanmedian(distance_MK, axis=1)
    return nearest_M / np.where(nearest_M > 0, median_M, 1)


def set_limit(honest_H: np.ndarray) -> float:
    """Return the ratio below which a model is a copy, from the ratios of honest checkpoints."""
    return float(min(np.quantile(honest_H, QUANTILE), NEARER * np.median(honest_H)))


def measure_closeness(
    table: ScoreTable, original: ScoreTable, yardstick: Yardstick, apart_MK: np.ndarray | None = None
) -> Closeness:
    """Measure how the models of a source relate to the originals, of which at least two differ.

    A generated model belongs to no step, so all originals count for it.

    Args:
        table: Scores of the source on "test".
        original: Scores of the originals on "test".
        yardstick: Ratios of honest checkpoints.
        apart_MK: Which originals count for each model; None: all. For the originals themselves it comes from
            `pair_originals`.
    """
    weights_M, function_M = measure_ratios(table, original, apart_MK)
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
