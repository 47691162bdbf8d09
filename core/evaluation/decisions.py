"""The rules by which the audit decides: differences, the answer, and whether models are new.

R bootstrap draws · N images · G groups of images that are versions of one image.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass
from math import comb, isinf, sqrt

import numpy as np

from core.evaluation.copying import AVERAGED, MOST, Behavior, Closeness
from core.evaluation.intervals import percentile_interval, two_sided_p_value
from core.evaluation.kinds import GENERATED
from core.evaluation.margins import Margins
from core.evaluation.resampling import Groups
from core.evaluation.scores import Metric, Scores
from core.evaluation.verdict import HONEST_COPIES, Comparison, Decision, Difference, Doubt, Novelty

MARGIN = 0.005  # A source is not inferior if it is worse by less than this in a metric in percent.
# An average of pairs, at 0.58 of the median distance, must pass; a copy shrunk by 30%, at 0.25, must not.
NEARER_THAN_AVERAGES = 0.75
ROUNDING = 1e-6  # relative error of influences, which are stored as float32
DOUBTFUL = {  # p_diff that copies is memorized, whatever its max IoU is.
    Doubt.ACCURACY: Novelty.WORSE,
    Doubt.UNCERTAIN: Novelty.UNCLEAR,
    Doubt.CONSISTENCY: Novelty.CONSISTENT,
}


@dataclass(frozen=True)
class Measured:
    """A difference between two sources with its bootstrap draws, before it is decided."""

    value: float
    draws_R: np.ndarray | None  # None if nothing can be resampled
    metric: Metric
    least_p: float = 0.0  # smallest p-value that so few images or models can show

    @property
    def p(self) -> float | None:
        """The two-sided p-value of no difference; None if nothing can be resampled, or if draws are not finite."""
        if self.draws_R is None or not np.isfinite(self.draws_R).all():
            return None
        return max(two_sided_p_value(self.draws_R), self.least_p)


def decide_difference(measured: Measured, level: float) -> Difference:
    """Decide a difference by its interval: it is better or worse if the interval excludes 0, else undecided.

    A difference whose p-value is above 1 − level stays undecided, and its interval is extended to 0 if `least_p`
    alone prevents the decision. Without draws, with draws that are not finite (a NaN compares as neither sign), or with
    too few draws for the level, there is no interval.
    """
    p = measured.p
    if p is None or measured.draws_R is None:
        return Difference(measured.value, None, Decision.UNDECIDED, p, level)
    low, high = percentile_interval(measured.draws_R, level)
    if isinf(low) or isinf(high):
        return Difference(measured.value, None, Decision.UNDECIDED, p, level)
    if measured.least_p > 1 - level:
        low, high = min(low, 0.0), max(high, 0.0)
    if low <= 0 <= high:
        return Difference(measured.value, (low, high), Decision.UNDECIDED, p, level)
    better = (low > 0) == measured.metric.higher_is_better
    return Difference(measured.value, (low, high), Decision.BETTER if better else Decision.WORSE, p, level)


def find_least_p(effective: float) -> float:
    """Return the smallest two-sided p-value that an exact sign test can show on an effective number of images.

    A bootstrap of few images is too sure of itself: if four images differ, all in favor of one source, its interval
    excludes 0, although four coins land on one side with a probability of 2 / 2⁴.
    """
    return min(1.0, 2.0 ** (1 - effective))


def count_differing(weights_G: np.ndarray) -> float:
    """Return the effective number of images that differ, (Σ|w|)² / Σw², which is n if n images matter equally.

    Args:
        weights_G: Contribution of each image, or group of images, to a difference. Most are exactly 0.
    """
    squares = float((weights_G**2).sum())
    return float(np.abs(weights_G).sum()) ** 2 / squares if squares else 0.0


def count_influential(weights_G: np.ndarray) -> float:
    """Return the effective number of images that make up a difference, (Σ|w|³)² / Σw⁶.

    The influences of all images add up to a constant, so every image has a small one, even if both sources treat it
    alike. Such weights hardly contribute to this number. It is n as well if n images matter equally. Squares in place
    of cubes give the degrees of freedom of Satterthwaite (1946), to which small weights still contribute too much: if 4
    of the 20 images of a class differ, they give 6.2, and cubes 4.5.

    Args:
        weights_G: Difference of the influences of each image, or group of images, on two sources.
    """
    sixth = float((weights_G**6).sum())
    return float((np.abs(weights_G) ** 3).sum()) ** 2 / sixth if sixth else 0.0


def find_least_p_of_accuracy(ours: Scores, theirs: Scores) -> float:
    """Return the smallest p-value that a difference of the primary metrics of two sources can show.

    An image contributes the difference of its two rates of errors to a difference of accuracies, and the difference of
    its two mean influences to that of any other metric. If these are unknown, only the models are, and an exact
    permutation test of both sources is the limit.
    """
    if not (ours.has_influence and theirs.has_influence):
        m, n = len(ours.accuracy_M), len(theirs.accuracy_M)
        return min(1.0, 2 / comb(m + n, m))
    if ours.influence_MN is None or theirs.influence_MN is None:
        weights_N = theirs.require_wrong().mean(axis=0) - ours.require_wrong().mean(axis=0)
        return find_least_p(count_differing(sum_groups(weights_N, ours.groups_N)))
    means = [influence_MN.mean(axis=0, dtype=np.float64) for influence_MN in (ours.influence_MN, theirs.influence_MN)]
    weights_N = center_influences(*means)
    return find_least_p(count_influential(sum_groups(weights_N, ours.groups_N)))


def center_influences(ours_N: np.ndarray, theirs_N: np.ndarray) -> np.ndarray:
    """Return the difference of the influences of each item on two sources, less its mean, which is evidence of nothing.

    The influences of a source average to its metric, so the difference of two metrics is part of the difference on
    every item, whichever items make it up. Differences as small as the rounding of stored influences are 0.
    """
    weights_N = ours_N - theirs_N
    weights_N -= weights_N.mean()
    return np.where(np.abs(weights_N) > ROUNDING * (np.abs(ours_N) + np.abs(theirs_N)), weights_N, 0)


def sum_groups(weights_N: np.ndarray, groups_N: np.ndarray | None) -> np.ndarray:
    """Return the sum of the weights over each group (G,); without groups, every image is a group of its own."""
    return Groups.index(len(weights_N), groups_N).sum(weights_N[None])[0]


def find_least_p_of_similarity(ours: Margins, theirs: Margins) -> float:
    """Return the smallest p-value that a difference of largest similarities can show on the images that make it up.

    An image is weighed by the difference of the two influences that it has on the mean largest similarity of a source.
    """
    return find_least_p(count_influential(ours.groups_G - theirs.groups_G))


def is_not_inferior(difference: Difference, metric: Metric) -> bool:
    """Return whether the interval shows that the first source is worse by less than half a point, if at all.

    The margin is 0.5 points for every metric in percent. For other metrics, whose scale is unknown, it is 0.
    """
    if difference.interval is None:
        return False
    worst = min(metric.sign * end for end in difference.interval)
    return worst > -(MARGIN if metric.in_percent else 0)


def find_doubt(row: Comparison, metric: Metric, copiers: Container[str] = ()) -> Doubt | None:
    """Return why a measurable difference in maximum IoU does not show that one source is newer; None if it does.

    Copies are not new, even if they are copies of weights that err on other images. A source among the `copiers`
    (`are_copies`) therefore never counts as newer, but another source may count as newer than it.

    The IoU of two sets of errors cannot exceed the ratio of their sizes, so it also falls if one model errs more or
    less often than the other. The source with the lower IoU therefore counts as newer only under two conditions,
    whether it is p_diff or the baseline. Its accuracy is not inferior, and its κ over the maximum at these accuracies
    is measurably lower, too.
    """
    if row.max_iou is None or row.max_iou.decision is Decision.UNDECIDED:
        return None
    lower, accuracy = GENERATED, row.accuracy
    if row.max_iou.decision is Decision.WORSE:
        lower, accuracy = row.baseline.source, row.accuracy.swap()
    if lower in copiers:
        return Doubt.COPIES
    confirms = row.kappa_relative is not None and row.kappa_relative.decision is row.max_iou.decision
    if is_not_inferior(accuracy, metric) and confirms:
        return None
    if accuracy.decision is Decision.WORSE:
        return Doubt.ACCURACY
    return Doubt.CONSISTENCY if is_not_inferior(accuracy, metric) else Doubt.UNCERTAIN


def decide_answer(free: Sequence[Comparison]) -> Decision:
    """Decide whether p_diff is more accurate than the free sources.

    It is better if it is measurably better than each of them, and worse if it is measurably worse than any. To be
    better than each is an intersection–union test, which needs no correction for the number of sources (Berger 1982,
    Technometrics 24). The decisions are those of the printed intervals, whose level is at least 95%.
    """
    decisions = {row.accuracy.decision for row in free}
    if Decision.WORSE in decisions:
        return Decision.WORSE
    return Decision.BETTER if decisions == {Decision.BETTER} else Decision.UNDECIDED


def find_rival(free: Sequence[Comparison], reference: str) -> str | None:
    """Return a free source that is measurably newer than p_diff at no inferior accuracy; None if there is none.

    The reference comes first. Of several other sources the one with the largest difference in maximum IoU is returned.
    """
    rivals = {row.baseline.source: row.max_iou.value for row in free if row.max_iou and row.newness is Decision.WORSE}
    return reference if reference in rivals else max(rivals, key=rivals.__getitem__, default=None)


def find_contender(free: Sequence[Comparison]) -> str | None:
    """Return a free source that may be newer than p_diff, because only its accuracy is too uncertain; None without any.

    Its max IoU and relative κ are measurably lower, and it is not measurably less accurate. p_diff has to prove that
    its accuracy is not inferior, and a free source is not given less doubt than p_diff is.
    """
    rows = [
        (row.max_iou.value, row.baseline.source)
        for row in free
        if row.doubt is Doubt.UNCERTAIN
        and row.max_iou is not None
        and row.max_iou.decision is Decision.WORSE
        and row.kappa_relative is not None
        and row.kappa_relative.decision is Decision.WORSE
    ]
    return max(rows)[1] if rows else None


def are_copies(closeness: Closeness) -> bool:
    """Return whether most models are copies, whatever else they are, such as copies of one original.

    The mean of g independent originals deviates by d = 1 / √g from their mean. In many dimensions it lies √(1 − 1 / g)
    from each of its members and √(1 + 1 / g) from other originals, in units of a deviation. Models that are nearer to
    the mean than originals may thus be averages, unless they lie much nearer to one original than averages of this
    deviation do.
    """
    if closeness.copies <= MOST:
        return False
    if closeness.deviation >= AVERAGED:
        return True
    squared = closeness.deviation**2
    return closeness.weights < NEARER_THAN_AVERAGES * sqrt((1 - squared) / (1 + squared))


def decide_novelty(
    against: Comparison, rival: str | None, closeness: Closeness | None, contender: str | None = None
) -> Novelty | None:
    """Decide whether p_diff is new, which takes weights, errors and accuracy into account.

    Args:
        against: Comparison with the reference.
        rival: The source that `find_rival` returned.
        closeness: Closeness of p_diff to the originals. Nothing is called newer if it is unknown (None), because copies
            cannot be ruled out.
        contender: The source that `find_contender` returned.

    Returns:
        The novelty, or None if it was not measured.
    """
    if closeness is not None and are_copies(closeness):
        return Novelty.MEMORIZED
    if against.max_iou is None:
        return None
    if rival is not None:
        return Novelty.CLOSER
    if against.max_iou.decision is not Decision.BETTER:
        return Novelty.AS_CLOSE
    if against.doubt is not None:
        return DOUBTFUL[against.doubt]
    if closeness is None:
        return None
    is_honest = closeness.behavior is Behavior.SAMPLES and closeness.copies <= HONEST_COPIES
    if not is_honest:
        return Novelty.NO_SAMPLES
    return Novelty.NEWER if contender is None else Novelty.CONTESTED
