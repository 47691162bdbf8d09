"""The rules by which the audit decides: differences, the answer, and whether models are new.

R bootstrap draws · N images · G groups of images that are versions of one image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb, isinf

import numpy as np

from core.evaluation.copying import Behavior, Closeness
from core.evaluation.intervals import Margins, percentile_interval, two_sided_p_value
from core.evaluation.scores import ACCURACY, Metric, Scores
from core.evaluation.verdict import Comparison, Decision, Difference, Novelty, Standing

MARGIN = 0.005  # A source is not inferior if its accuracy is lower by less than this, which is half a point.


@dataclass(frozen=True)
class Measured:
    """A difference between two sources with its bootstrap draws, before it is decided."""

    value: float
    draws_R: np.ndarray | None  # None if nothing can be resampled
    metric: Metric
    least_p: float = 0.0  # smallest p-value that so few images or models can show

    @property
    def p(self) -> float | None:
        """The two-sided p-value of no difference; None if nothing can be resampled."""
        return None if self.draws_R is None else max(two_sided_p_value(self.draws_R), self.least_p)


def decide_difference(measured: Measured, level: float) -> Difference:
    """Decide a difference by its interval: it is better or worse if the interval excludes 0, else undecided.

    A difference whose p-value is above 1 − level stays undecided, and its interval is extended to 0 if `least_p`
    alone prevents the decision. Without draws, or with too few draws for the level, there is no interval.
    """
    p = measured.p
    low, high = (-np.inf, np.inf) if measured.draws_R is None else percentile_interval(measured.draws_R, level)
    if p is None or isinf(low) or isinf(high):
        return Difference(measured.value, None, Decision.UNDECIDED, p, level)
    if measured.least_p > 1 - level:
        low, high = min(low, 0.0), max(high, 0.0)
    if low <= 0 <= high:
        return Difference(measured.value, (low, high), Decision.UNDECIDED, p, level)
    better = (low > 0) == measured.metric.higher_is_better
    return Difference(measured.value, (low, high), Decision.BETTER if better else Decision.WORSE, p, level)


def find_least_p(weights_N: np.ndarray, groups_N: np.ndarray | None) -> float:
    """Return the smallest two-sided p-value that an exact sign test can show on the images that matter.

    A bootstrap of few images is too sure of itself: if four images differ, all in favor of one source, its interval
    excludes 0, although four coins land on one side with a probability of 2 / 2⁴. The images that matter are counted by
    their effective number (Σ|w|)² / Σw², which is n if n images matter equally.

    Args:
        weights_N: Contribution of each image to the difference.
        groups_N: Group of each image, whose contributions are added; None if every image is its own group.
    """
    if groups_N is not None:
        weights_N = np.bincount(np.unique(groups_N, return_inverse=True)[1], weights_N)
    squares = float((weights_N**2).sum())
    effective = float(np.abs(weights_N).sum()) ** 2 / squares if squares else 0.0
    return min(1.0, 2.0 ** (1 - effective))


def find_least_p_of_accuracy(ours: Scores, theirs: Scores) -> float:
    """Return the smallest p-value that a difference of the accuracies of two sources can show.

    Without masks of wrong images only the models are known, and an exact permutation test of both sources is the limit.
    """
    if ours.wrong_MN is None or theirs.wrong_MN is None:
        m, n = len(ours.accuracy_M), len(theirs.accuracy_M)
        return min(1.0, 2 / comb(m + n, m))
    return find_least_p(theirs.wrong_MN.mean(axis=0) - ours.wrong_MN.mean(axis=0), ours.groups_N)


def find_least_p_of_max_iou(ours: Margins, theirs: Margins) -> float:
    """Return the smallest p-value that a difference of maximum IoUs can show on the images that make it up.

    The images are weighed as in `find_least_p`, by the difference of the two influences that an image has on the mean
    maximum IoU of a source. All influences add up to 0, so every image with errors has a small one, even if both
    sources treat it alike. Their effective number is therefore (Σw²)² / Σw⁴, to which small weights hardly contribute
    (the degrees of freedom of Satterthwaite 1946). It is n as well if n images matter equally.
    """
    squares_G = (ours.groups_G - theirs.groups_G) ** 2
    fourth = float((squares_G**2).sum())
    return min(1.0, 2.0 ** (1 - float(squares_G.sum()) ** 2 / fourth)) if fourth else 1.0


def is_not_inferior(difference: Difference, metric: Metric) -> bool:
    """Return whether the interval shows that p_diff is worse by less than half a point of accuracy, if at all.

    For other metrics, whose scale is unknown, the margin is 0.
    """
    if difference.interval is None:
        return False
    worst = min(metric.sign * end for end in difference.interval)
    return worst > -(MARGIN if metric == ACCURACY else 0)


def counts_as_newer(generated: Standing, baseline: Standing, accuracy: Difference, metric: Metric) -> bool:
    """Return whether a maximum IoU of p_diff below that of the baseline would show that p_diff is newer.

    The IoU of two sets of errors cannot exceed the ratio of their sizes, so a model that errs more often shares a
    smaller part of its errors. A lower IoU therefore counts only if the accuracy is not inferior. If it is lower at
    all, κ over its maximum at these accuracies must be lower, too, because half a point of accuracy can be a large part
    of few errors.
    """
    if not is_not_inferior(accuracy, metric):
        return False
    ours, theirs = generated.kappa_relative_mean, baseline.kappa_relative_mean
    return metric.sign * accuracy.value >= 0 or ours is None or theirs is None or ours < theirs


def decide_answer(free: Sequence[Comparison], reference: str, metric: Metric) -> Decision:
    """Decide whether p_diff is more accurate than the free sources.

    It is worse if it is measurably worse than any free source. It is better if it is measurably better than the
    reference, and at least as accurate on average as every other free source.
    """
    if any(row.accuracy.decision is Decision.WORSE for row in free):
        return Decision.WORSE
    (against,) = (row for row in free if row.baseline.source == reference)
    leads = all(metric.sign * row.accuracy.value >= 0 for row in free)
    return Decision.BETTER if leads and against.accuracy.decision is Decision.BETTER else Decision.UNDECIDED


def find_rival(free: Sequence[Comparison], reference: str) -> str | None:
    """Return a free source that repeats measurably fewer errors of the originals than p_diff; None if there is none.

    It is the reference, or else a source that p_diff is not measurably more accurate than. Of several sources the one
    with the largest difference is returned.
    """
    rivals = {
        row.baseline.source: row.max_iou.value
        for row in free
        if row.max_iou
        and row.max_iou.decision is Decision.WORSE
        and (row.baseline.source == reference or row.accuracy.decision is not Decision.BETTER)
    }
    return reference if reference in rivals else max(rivals, key=rivals.__getitem__, default=None)


def decide_novelty(against: Comparison, rival: str | None, closeness: Closeness | None) -> Novelty | None:
    """Decide whether p_diff is new, which takes weights, errors and accuracy into account.

    Args:
        against: Comparison with the reference.
        rival: The source that `find_rival` returned.
        closeness: Closeness of p_diff to the originals. Nothing is called newer if it is unknown (None), because copies
            cannot be ruled out.

    Returns:
        The novelty, or None if it was not measured.
    """
    if closeness is not None and closeness.behavior is Behavior.COPIES:
        return Novelty.MEMORIZED
    if against.max_iou is None:
        return None
    if rival is not None:
        return Novelty.CLOSER
    if against.max_iou.decision is not Decision.BETTER:
        return Novelty.AS_CLOSE
    if not against.iou_counts:
        return Novelty.WORSE if against.accuracy.decision is Decision.WORSE else Novelty.UNCLEAR
    return None if closeness is None else Novelty.NEWER
