"""The verdict of the audit: is a generated model better, and is it new, than what needs no generative model?"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from core.evaluation.intervals import Bootstrap, interval
from core.evaluation.metrics import max_iou, min_l2, near_copies, variance_kept
from core.evaluation.scores import ScoreTable
from core.evaluation.summary import SOUP, spacing_of

GENERATED = "p_diff"


def verdict(tables: Mapping[str, ScoreTable], bootstrap: Bootstrap | None = None) -> dict[str, Any]:
    """Everything said of `p_diff` against each baseline, as JSON; numbers are of test, accuracies in [0, 1].

    Two axes: mean accuracy (more is better) and mean maximum IoU with the originals (less is newer). On each p_diff is
    "better" or "worse" than the baseline where the 95 % interval of the difference excludes 0, else "undecided". With a
    dozen baselines one of some 20 decided comparisons may be so by chance.

    Two baselines need a word. `ensemble` is ONE model, fixed by the checkpoints: only images vary on its side, and its
    IoU is compared like any other's, since a model can repeat or avoid an original's errors however many there are.
    `original` is compared with itself: each original's maximum is over the *other* originals, so the IoU axis asks
    whether a generated model is more like its nearest original than an original is like its nearest sibling.

    Args:
        bootstrap: over these tables, to share its draws with the summary; made here if it is not given.
    """
    compare = Comparer(tables, bootstrap or Bootstrap(tables))
    averages = [source for source in tables if source.startswith("average_")] or ["ensemble"]
    best_average = max(averages, key=compare.mean_accuracy)
    content = {
        "p_diff": {"n": len(tables[GENERATED].vectors_MD), **compare.means(GENERATED)},
        "comparisons": [
            compare.baseline(source) for source in tables if source != GENERATED and not source.startswith(SOUP)
        ],
        "averaging": [compare.averaging(source) for source in averages],
        "best_average": best_average,
        "near_copies": compare.near_copies([GENERATED, *averages]),
    }
    if (new := novelty(content)) is not None:
        content["novelty"] = new
    kept = (
        variance_kept(tables["reconstructed"].vectors_MD, tables["original"].vectors_MD)
        if "reconstructed" in tables
        else None
    )
    if kept is not None:
        content["variance_kept"] = kept
    return content


class Comparer:
    """Differences between sources, each with its interval and what it says of the first."""

    def __init__(self, tables: Mapping[str, ScoreTable], bootstrap: Bootstrap):
        self.tables, self.bootstrap = tables, bootstrap

    def mean_accuracy(self, source: str) -> float:
        """Over models, on test."""
        return float(self.tables[source].scores["test"].accuracy_M.mean())

    def mean_max_iou(self, source: str) -> float:
        """Over models: the largest IoU with any original, with any *other* for the originals."""
        wrong_MN, reference_KN = (self.tables[name].scores["test"].wrong_MN for name in (source, "original"))
        return float(max_iou(wrong_MN, reference_KN, same=source == "original").mean())

    def has_max_iou(self, source: str) -> bool:
        """Known images, and something to be compared with: the only original has none."""
        return self.bootstrap.has_images and (source != "original" or len(self.tables[source].vectors_MD) > 1)

    def means(self, source: str) -> dict[str, float]:
        """Where this source stands on both axes."""
        means = {"accuracy_mean": self.mean_accuracy(source)}
        return means | ({"max_iou_mean": self.mean_max_iou(source)} if self.has_max_iou(source) else {})

    def accuracy(self, source: str, other: str) -> dict[str, Any]:
        """Mean accuracy of `source` minus that of `other`."""
        difference = self.mean_accuracy(source) - self.mean_accuracy(other)
        if not self.bootstrap.varies(source, other):
            return {"difference": difference, "is": "undecided"}
        return judged(difference, self.bootstrap.accuracy(source) - self.bootstrap.accuracy(other), sign=1)

    def max_iou(self, source: str, other: str) -> dict[str, Any]:
        """Mean maximum IoU of `source` minus that of `other`; less is better."""
        difference = self.mean_max_iou(source) - self.mean_max_iou(other)
        return judged(difference, self.bootstrap.max_iou(source) - self.bootstrap.max_iou(other), sign=-1)

    def baseline(self, source: str) -> dict[str, Any]:
        """p_diff against one baseline on both axes."""
        axes = {"accuracy": self.accuracy(GENERATED, source)}
        if self.has_max_iou(source):
            axes["max_iou"] = self.max_iou(GENERATED, source)
        flat = {f"{axis}_{key}": value for axis, comparison in axes.items() for key, value in comparison.items()}
        row = {"baseline": source, "n": len(self.tables[source].vectors_MD), **self.means(source), **flat}
        return row | {"outcome": outcome(*(comparison["is"] for comparison in axes.values()))}

    def averaging(self, source: str) -> dict[str, Any]:
        """Gain of p_diff over the originals, gain of averaging them, and the difference of the two gains.

        The originals' own mean cancels in that difference: it is the accuracy difference of p_diff and the average.
        """
        return {
            "source": source,
            "p_diff_gain": self.accuracy(GENERATED, "original"),
            "average_gain": self.accuracy(source, "original"),
            "gain_difference": self.accuracy(GENERATED, source),
        }

    def near_copies(self, sources: list[str]) -> dict[str, float]:
        """Share of near-copies by source; empty where there is one original, which has no spacing."""
        original = self.tables["original"]
        spacing = spacing_of(original)
        if spacing is None:
            return {}
        return {
            source: near_copies(min_l2(self.tables[source].vectors_MD, original.vectors_MD), spacing)
            for source in sources
        }


def judged(difference: float, draws_R: np.ndarray, sign: int) -> dict[str, Any]:
    """A difference, its interval, and what that says: `sign` is 1 where more is better, −1 where less is."""
    low, high = interval(draws_R)
    decided = sign * (int(low > 0) - int(high < 0))
    return {
        "difference": difference,
        "interval": [low, high],
        "is": {1: "better", -1: "worse", 0: "undecided"}[decided],
    }


def outcome(*axes: str) -> str:
    """One word for all axes; an axis that was not measured is not among them."""
    better, worse = "better" in axes, "worse" in axes
    if better and worse:
        return "trade-off"
    return "dominates" if better else "is dominated" if worse else "tie"


def novelty(content: Mapping[str, Any]) -> str | None:
    """How new p_diff is, measured against the most accurate average of checkpoints; None where nothing tells.

    An average is no copy of anyone, yet nothing but the originals is in it: what is to count as new must repeat the
    originals' errors less than that. Near-copies tell of copying where averages are not as near to an original as
    p_diff is (see `metrics.near_copies`). Where they are, as among independent trainings, which all lie far from each
    other, errors have to tell: repeated more than by an average, and no less than by another original.
    """
    near, average = content["near_copies"], content["best_average"]
    than = {row["baseline"]: row.get("max_iou_is") for row in content["comparisons"]}
    errors = than[average]
    copies = near.get(GENERATED, 0) > 0.5 and (
        near[average] <= 0.5 or errors == "worse" and than["original"] != "better"
    )
    if copies:
        return "near-copies that err otherwise" if errors == "better" else "memorized"
    return {
        "better": "newer than an average",
        "undecided": "as close as an average",
        "worse": "closer than an average",
    }.get(errors)
