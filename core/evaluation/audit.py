"""The audit: score tables to the verdict."""

from collections.abc import Mapping, Sequence

import numpy as np

from core.evaluation.intervals import Bootstrap, interval
from core.evaluation.kinds import AVERAGE, ENSEMBLE, GENERATED, ORIGINAL, RECONSTRUCTED, Kind, family_of
from core.evaluation.metrics import max_iou, min_l2, near_copies, variance_kept
from core.evaluation.scores import MAX_IOU, Metric, ScoreTable
from core.evaluation.summary import spacing_of
from core.evaluation.verdict import Averaging, Comparison, Decision, Difference, Standing, Verdict


def audit(tables: Mapping[str, ScoreTable], bootstrap: Bootstrap | None = None) -> Verdict:
    """Compare `p_diff` with each baseline.

    Two axes: the primary metric, the mean accuracy, and the mean maximum IoU with the originals (less is newer). On
    each p_diff is better or worse than the baseline where the 95 % interval of the difference excludes 0, else it is
    undecided. With a dozen baselines one of some 20 decided comparisons may be so by chance.

    Two baselines need a word. `ensemble` is ONE model, fixed by the checkpoints: only images vary on its side, and its
    IoU is compared like any other's, since a model can repeat or avoid an original's errors however many there are.
    `original` is compared with itself: each original's maximum is over the *other* originals, so the IoU axis asks
    whether a generated model is more like its nearest original than an original is like its nearest sibling.

    Args:
        tables: by source.
        bootstrap: over these tables, to share its draws with the summary; made here if it is not given.
    """
    compare = Comparer(tables, bootstrap or Bootstrap(tables))
    averages = [source for source in tables if family_of(source) == AVERAGE] or [ENSEMBLE]
    baselines = [source for source, table in tables.items() if table.kind not in (Kind.GENERATED, Kind.SOUP)]
    kept = None
    if RECONSTRUCTED in tables:
        kept = variance_kept(tables[RECONSTRUCTED].vectors_MD, tables[ORIGINAL].vectors_MD)
    return Verdict(
        p_diff=compare.standing(GENERATED),
        comparisons=tuple(compare.with_baseline(source) for source in baselines),
        averaging=tuple(compare.averaging(source) for source in averages),
        best_average=max(averages, key=compare.goodness),
        near_copies=compare.near_copies([GENERATED, *averages]),
        variance_kept=kept,
    )


class Comparer:
    """Differences between sources, each with its interval and what it says of the first."""

    def __init__(self, tables: Mapping[str, ScoreTable], bootstrap: Bootstrap):
        self.tables, self.bootstrap = tables, bootstrap
        self.metric = tables[GENERATED].scores["test"].metric

    def mean_accuracy(self, source: str) -> float:
        """Return the mean of the primary metric over models, on test."""
        return float(self.tables[source].scores["test"].accuracy_M.mean())

    def goodness(self, source: str) -> float:
        """Return the mean of the primary metric, turned around where less of it is better."""
        return self.metric.sign * self.mean_accuracy(source)

    def mean_max_iou(self, source: str) -> float:
        """Return the mean over models of the largest IoU with any original, with any *other* for the originals."""
        wrong_MN, reference_KN = (self.tables[name].scores["test"].known_wrong() for name in (source, ORIGINAL))
        return float(max_iou(wrong_MN, reference_KN, same=source == ORIGINAL).mean())

    def has_max_iou(self, source: str) -> bool:
        """Tell whether images are known, and there is something to compare with: the only original has nothing."""
        return self.bootstrap.has_images and (source != ORIGINAL or len(self.tables[source].vectors_MD) > 1)

    def standing(self, source: str) -> Standing:
        """Place a source on both axes."""
        iou = self.mean_max_iou(source) if self.has_max_iou(source) else None
        return Standing(source, len(self.tables[source].vectors_MD), self.mean_accuracy(source), iou)

    def accuracy(self, source: str, other: str) -> Difference:
        """Return the mean accuracy of `source` minus that of `other`."""
        difference = self.mean_accuracy(source) - self.mean_accuracy(other)
        if not self.bootstrap.varies(source, other):
            return Difference(difference, None, Decision.UNDECIDED)
        return judged(difference, self.bootstrap.accuracy(source) - self.bootstrap.accuracy(other), self.metric)

    def max_iou(self, source: str, other: str) -> Difference:
        """Return the mean maximum IoU of `source` minus that of `other`."""
        difference = self.mean_max_iou(source) - self.mean_max_iou(other)
        return judged(difference, self.bootstrap.max_iou(source) - self.bootstrap.max_iou(other), MAX_IOU)

    def with_baseline(self, source: str) -> Comparison:
        """Compare p_diff with one baseline on both axes."""
        iou = self.max_iou(GENERATED, source) if self.has_max_iou(source) else None
        return Comparison(self.standing(source), self.accuracy(GENERATED, source), iou)

    def averaging(self, source: str) -> Averaging:
        """Compare the gain of p_diff over the originals with that of averaging them.

        The originals' own mean cancels in the difference of the gains: it is the accuracy difference of p_diff and the
        average.
        """
        return Averaging(
            source,
            p_diff_gain=self.accuracy(GENERATED, ORIGINAL),
            average_gain=self.accuracy(source, ORIGINAL),
            gain_difference=self.accuracy(GENERATED, source),
        )

    def near_copies(self, sources: Sequence[str]) -> dict[str, float]:
        """Return the share of near-copies by source; empty where there is one original, which has no spacing."""
        original = self.tables[ORIGINAL]
        spacing = spacing_of(original)
        if spacing is None:
            return {}
        return {
            source: near_copies(min_l2(self.tables[source].vectors_MD, original.vectors_MD), spacing)
            for source in sources
        }


def judged(difference: float, draws_R: np.ndarray, metric: Metric) -> Difference:
    """Decide a difference of this metric by the interval of its draws."""
    low, high = interval(draws_R)
    if not (low > 0 or high < 0):
        return Difference(difference, (low, high), Decision.UNDECIDED)
    better = (low > 0) == metric.higher_is_better
    return Difference(difference, (low, high), Decision.BETTER if better else Decision.WORSE)
