"""The yardstick of copying: how near honest new checkpoints come to the originals, and which of them are compared.

M models · K originals · H held-out checkpoints · D numbers in one vector.
"""

import math
from dataclasses import dataclass

import numpy as np

from core.checkpoints.symmetry import PermutationSymmetry
from core.evaluation.matched_distances import measure_matched_l2
from core.evaluation.metrics import disagreement_matrix, l2_matrix, pair_with_others
from core.evaluation.scores import ScoreTable
from core.evaluation.walk import autocorrelation_time, is_walk

QUANTILE = 0.05  # share of honest checkpoints that may lie below the yardstick
# A copy is also much nearer than a typical honest checkpoint. In many dimensions the honest distances hardly vary, and
# every imperfect sampler would lie below their 5% quantile.
NEARER = 0.6
FEWEST = 10  # fewer held-out checkpoints do not show a 5% quantile


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
    matched: bool = False  # whether hidden units were matched before distances in weights were taken


@dataclass(frozen=True)
class Partners:
    """The originals that an original is compared with."""

    lag: int  # least number of steps between them (`measure_lag`)
    apart_KK: np.ndarray


def measure_yardstick(
    original: ScoreTable,
    held_out: ScoreTable | None,
    origins: Origins | None,
    *,
    lag: int | None = None,
    symmetry: PermutationSymmetry | None = None,
) -> Yardstick | None:
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
        lag: Lag of the originals; None measures it.
        symmetry: Groups of units that are matched before distances are taken; None matches nothing.

    Returns:
        The yardstick, or None if there are fewer than 3 originals or all originals are equal.

    Raises:
        ValueError: The origins are not those of the tables' rows.
    """
    vectors_KD = original.vectors_MD
    if len(vectors_KD) < 3 or (vectors_KD == vectors_KD[0]).all():
        return None
    lag = measure_lag(vectors_KD, origins) if lag is None else lag
    original_K2 = number_rows(len(vectors_KD)) if origins is None else origins.original_K2
    ratios = [measure_ratios(original, original, are_apart(original_K2, original_K2, lag), symmetry)]
    num_held_out = 0 if held_out is None else len(held_out.vectors_MD)
    if held_out is not None and num_held_out >= FEWEST and origins is not None and origins.held_out_H2 is not None:
        ratios.append(measure_ratios(held_out, original, are_apart(origins.held_out_H2, original_K2, lag), symmetry))
    functions = [function_H for _, function_H in ratios if function_H is not None]
    return Yardstick(
        held_out=len(ratios) == 2,
        num_models=num_held_out if len(ratios) == 2 else len(vectors_KD),
        lag=lag,
        weights_low=min(set_limit(weights_H) for weights_H, _ in ratios),
        function_low=min(map(set_limit, functions), default=None),
        matched=symmetry is not None and bool(symmetry.groups),
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


def pair_originals(vectors_KD: np.ndarray, origins: Origins | None) -> Partners:
    """Return the originals that each original is compared with.

    They are those at least a lag away (`measure_lag`), because neighboring steps of one training are almost equal. An
    original without such a partner is compared with all others.
    """
    origin_K2 = number_rows(len(vectors_KD)) if origins is None else origins.original_K2
    lag = measure_lag(vectors_KD, origins)
    apart_KK = are_apart(origin_K2, origin_K2, lag)
    return Partners(lag, np.where(apart_KK.any(axis=1, keepdims=True), apart_KK, pair_with_others(len(vectors_KD))))


def are_apart(origin_M2: np.ndarray, reference_K2: np.ndarray, lag: int) -> np.ndarray:
    """Return which pairs (M, K) are of different trainings or at least `lag` steps apart; never a checkpoint itself."""
    training_MK, steps_MK = np.moveaxis(origin_M2[:, None] - reference_K2[None], -1, 0)
    return (training_MK != 0) | (abs(steps_MK) >= max(lag, 1))


def measure_ratios(
    table: ScoreTable,
    original: ScoreTable,
    apart_MK: np.ndarray | None = None,
    symmetry: PermutationSymmetry | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the nearest / median distance of each model to the originals, in weights and in function, two arrays (M,).

    The function is None if the task does not define errors per image. It does not depend on the order of hidden units.
    Distances in weights do, so the units are matched first where networks of independent trainings are compared.

    Args:
        table: Scores of the models on "test".
        original: Scores of the originals on "test".
        apart_MK: Which originals count for each model; None: all.
        symmetry: Groups of units that are matched; None matches nothing.
    """
    if symmetry is None:
        distance_MK = l2_matrix(table.vectors_MD, original.vectors_MD)
    else:
        distance_MK = measure_matched_l2(symmetry, table.vectors_MD, original.vectors_MD, apart_MK=apart_MK)
    weights_M = relate_nearest(distance_MK, apart_MK)
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
