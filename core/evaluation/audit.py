"""The audit, which turns score tables into the verdict."""

from collections.abc import Mapping, Sequence

import numpy as np

from core.evaluation.intervals import Bootstrap, percentile_interval
from core.evaluation.kinds import AVERAGE, ENSEMBLE, GENERATED, ORIGINAL, RECONSTRUCTED, Kind, get_family
from core.evaluation.metrics import max_iou, min_l2, near_copies, variance_kept
from core.evaluation.scores import MAX_IOU, Metric, ScoreTable
from core.evaluation.summary import measure_spacing
from core.evaluation.verdict import Averaging, Comparison, Decision, Difference, Standing, Verdict


def audit(tables: Mapping[str, ScoreTable], bootstrap: Bootstrap | None = None) -> Verdict:
    """Compare `p_diff` with each baseline.

    There are two axes: the mean of the task's primary metric (accuracy for classifiers), and the mean maximum IoU with
    the originals, where lower is newer. On each axis p_diff is better or worse than the baseline if the 95% interval of
    the difference excludes 0. Otherwise the axis is undecided. A dozen baselines give about 20 comparisons, of which
    one may be decided by chance.

    Two baselines are special. `ensemble` is a single model, so only the images are resampled for it. Its IoU is
    compared like the IoU of any other source, because the IoU of a model does not depend on the number of models.
    For `original`, the maximum IoU of each original is taken over the *other* originals. The IoU axis then shows
    whether a generated model is more similar to its nearest original than an original is to its nearest neighbor.

    Args:
        tables: Score tables by source.
        bootstrap: Bootstrap over these tables, given to share its draws with the summary; None makes a new one.
    """
    comparer = Comparer(tables, bootstrap or Bootstrap(tables))
    averages = [source for source in tables if get_family(source) == AVERAGE] or [ENSEMBLE]
    baselines = [source for source, table in tables.items() if table.kind not in (Kind.GENERATED, Kind.SOUP)]
    kept = None
    if RECONSTRUCTED in tables:
        kept = variance_kept(tables[RECONSTRUCTED].vectors_MD, tables[ORIGINAL].vectors_MD)
    return Verdict(
        p_diff=comparer.locate(GENERATED),
        comparisons=tuple(comparer.compare_with(source) for source in baselines),
        averaging=tuple(comparer.compare_averaging(source) for source in averages),
        best_average=max(averages, key=comparer.mean_quality),
        near_copies=comparer.measure_near_copies([GENERATED, *averages]),
        variance_kept=kept,
    )


class Comparer:
    """Comparisons between two sources: the difference, its interval, and whether the first source is better."""

    def __init__(self, tables: Mapping[str, ScoreTable], bootstrap: Bootstrap):
        self.tables, self.bootstrap = tables, bootstrap
        self.metric = tables[GENERATED].scores["test"].metric

    def mean_accuracy(self, source: str) -> float:
        """Return the mean test score of a source in the task's primary metric (accuracy for classifiers)."""
        return float(self.tables[source].scores["test"].accuracy_M.mean())

    def mean_quality(self, source: str) -> float:
        """Return the mean test score of a source, negated if lower is better, so that higher is always better."""
        return self.metric.sign * self.mean_accuracy(source)

    def mean_max_iou(self, source: str) -> float:
        """Return the mean over models of the largest IoU with any original; an original is not compared with itself."""
        wrong_MN, reference_KN = (self.tables[name].scores["test"].require_wrong() for name in (source, ORIGINAL))
        return float(max_iou(wrong_MN, reference_KN, same=source == ORIGINAL).mean())

    def has_max_iou(self, source: str) -> bool:
        """Return whether a source has a maximum IoU, which needs errors per image and an original to compare with."""
        return self.bootstrap.has_images and (source != ORIGINAL or len(self.tables[source].vectors_MD) > 1)

    def locate(self, source: str) -> Standing:
        """Return the position of a source on both axes."""
        iou = self.mean_max_iou(source) if self.has_max_iou(source) else None
        return Standing(source, len(self.tables[source].vectors_MD), self.mean_accuracy(source), iou)

    def compare_accuracy(self, source: str, other: str) -> Difference:
        """Return the mean accuracy of `source` minus that of `other`."""
        difference = self.mean_accuracy(source) - self.mean_accuracy(other)
        if not self.bootstrap.varies(source, other):
            return Difference(difference, None, Decision.UNDECIDED)
        draws_R = self.bootstrap.draw_accuracy(source) - self.bootstrap.draw_accuracy(other)
        return decide_difference(difference, draws_R, self.metric)

    def compare_max_iou(self, source: str, other: str) -> Difference:
        """Return the mean maximum IoU of `source` minus that of `other`."""
        difference = self.mean_max_iou(source) - self.mean_max_iou(other)
        draws_R = self.bootstrap.draw_max_iou(source) - self.bootstrap.draw_max_iou(other)
        return decide_difference(difference, draws_R, MAX_IOU)

    def compare_with(self, source: str) -> Comparison:
        """Compare p_diff with one baseline on both axes."""
        iou = self.compare_max_iou(GENERATED, source) if self.has_max_iou(source) else None
        return Comparison(self.locate(source), self.compare_accuracy(GENERATED, source), iou)

    def compare_averaging(self, source: str) -> Averaging:
        """Compare the gain of p_diff over the originals with the gain of averaging the originals.

        The mean of the originals cancels in the difference of the two gains. What remains is the accuracy of p_diff
        minus the accuracy of the average.
        """
        return Averaging(
            source,
            p_diff_gain=self.compare_accuracy(GENERATED, ORIGINAL),
            average_gain=self.compare_accuracy(source, ORIGINAL),
            gain_difference=self.compare_accuracy(GENERATED, source),
        )

    def measure_near_copies(self, sources: Sequence[str]) -> dict[str, float]:
        """Return the share of near-copies by source; empty if there is only one original, which has no spacing."""
        original = self.tables[ORIGINAL]
        spacing = measure_spacing(original)
        if spacing is None:
            return {}
        return {
            source: near_copies(min_l2(self.tables[source].vectors_MD, original.vectors_MD), spacing)
            for source in sources
        }


def decide_difference(difference: float, draws_R: np.ndarray, metric: Metric) -> Difference:
    """Decide a difference of this metric by the 95% interval of its bootstrap draws."""
    low, high = percentile_interval(draws_R)
    if not (low > 0 or high < 0):
        return Difference(difference, (low, high), Decision.UNDECIDED)
    better = (low > 0) == metric.higher_is_better
    return Difference(difference, (low, high), Decision.BETTER if better else Decision.WORSE)
