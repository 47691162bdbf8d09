"""The verdict as data: how p_diff compares with baselines that need no generative model.

All numbers are measured on the test split, and accuracies are in [0, 1]. Only this file defines how metrics.json stores
the verdict.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from core.evaluation.kinds import GENERATED, ORIGINAL


class Decision(StrEnum):
    """The result of a comparison on one axis, where better means more accurate or newer."""

    BETTER = "better"
    WORSE = "worse"
    UNDECIDED = "undecided"


class Outcome(StrEnum):
    """The result of a comparison on both axes together."""

    DOMINATES = "dominates"
    IS_DOMINATED = "is dominated"
    TRADE_OFF = "trade-off"
    TIE = "tie"


class Novelty(StrEnum):
    """The novelty of p_diff relative to the most accurate average of checkpoints."""

    MEMORIZED = "memorized"
    CLOSER = "closer than an average"
    AS_CLOSE = "as close as an average"
    NEAR_COPIES = "near-copies that err otherwise"
    NEWER = "newer than an average"


@dataclass(frozen=True)
class Difference:
    """The mean of one source minus the mean of another."""

    value: float
    interval: tuple[float, float] | None  # 95% interval; None if nothing can be resampled
    decision: Decision

    def to_json(self, prefix: str = "") -> dict[str, Any]:
        """Return the entries of metrics.json, each key starting with `prefix`."""
        ends = {f"{prefix}interval": list(self.interval)} if self.interval is not None else {}
        return {f"{prefix}difference": self.value, **ends, f"{prefix}is": self.decision.value}

    @classmethod
    def from_json(cls, row: Mapping[str, Any], prefix: str = "") -> "Difference":
        """Read the entries that `to_json` returned.

        Raises:
            KeyError, TypeError, ValueError: The row has another format.
        """
        low_high = row.get(f"{prefix}interval")
        interval = None if low_high is None else (float(low_high[0]), float(low_high[1]))
        return cls(float(row[f"{prefix}difference"]), interval, Decision(row[f"{prefix}is"]))


@dataclass(frozen=True)
class Standing:
    """The position of one source on both axes."""

    source: str
    n: int
    accuracy_mean: float
    max_iou_mean: float | None = None  # mean over models of the largest IoU with an original; None if not measured

    def to_json(self) -> dict[str, Any]:
        """Return the entries of metrics.json without the name of the source."""
        iou = {"max_iou_mean": self.max_iou_mean} if self.max_iou_mean is not None else {}
        return {"n": self.n, "accuracy_mean": self.accuracy_mean, **iou}

    @classmethod
    def from_json(cls, source: str, row: Mapping[str, Any]) -> "Standing":
        """Read the entries that `to_json` returned."""
        return cls(source, row["n"], row["accuracy_mean"], row.get("max_iou_mean"))


@dataclass(frozen=True)
class Comparison:
    """A comparison of p_diff with one baseline, where each difference is p_diff minus the baseline."""

    baseline: Standing
    accuracy: Difference
    max_iou: Difference | None  # None if not measured

    @property
    def outcome(self) -> Outcome:
        """The result on all measured axes together."""
        return decide_outcome(*(axis.decision for axis in (self.accuracy, self.max_iou) if axis is not None))

    def to_json(self) -> dict[str, Any]:
        """Return the row of metrics.json."""
        axes = self.accuracy.to_json("accuracy_") | (self.max_iou.to_json("max_iou_") if self.max_iou else {})
        return {"baseline": self.baseline.source, **self.baseline.to_json(), **axes, "outcome": self.outcome.value}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> "Comparison":
        """Read the row that `to_json` returned."""
        max_iou = Difference.from_json(row, "max_iou_") if "max_iou_difference" in row else None
        return cls(Standing.from_json(row["baseline"], row), Difference.from_json(row, "accuracy_"), max_iou)


@dataclass(frozen=True)
class Averaging:
    """The gain of p_diff over the originals, the gain of averaging the originals, and the difference of both."""

    source: str
    p_diff_gain: Difference
    average_gain: Difference
    gain_difference: Difference

    def to_json(self) -> dict[str, Any]:
        """Return the row of metrics.json."""
        return {
            "source": self.source,
            "p_diff_gain": self.p_diff_gain.to_json(),
            "average_gain": self.average_gain.to_json(),
            "gain_difference": self.gain_difference.to_json(),
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> "Averaging":
        """Read the row that `to_json` returned."""
        gains = (Difference.from_json(row[name]) for name in ("p_diff_gain", "average_gain", "gain_difference"))
        return cls(row["source"], *gains)


@dataclass(frozen=True)
class Verdict:
    """All comparisons of p_diff with its baselines."""

    p_diff: Standing
    comparisons: tuple[Comparison, ...]
    averaging: tuple[Averaging, ...]
    best_average: str  # the most accurate average of checkpoints
    near_copies: Mapping[str, float]  # share of near-copies by source; empty if there is only one original
    variance_kept: float | None = None  # share of the originals' variance that the autoencoder keeps

    def get_comparison(self, baseline: str) -> Comparison:
        """Return the comparison with this baseline."""
        return next(comparison for comparison in self.comparisons if comparison.baseline.source == baseline)

    @property
    def novelty(self) -> Novelty | None:
        """Whether p_diff is new, compared with the most accurate average of checkpoints.

        None means that the maximum IoU was not measured and that near-copies alone do not show copying.

        An average of originals copies no single original, but it contains nothing new either. So p_diff is newer only
        if it repeats the errors of the originals less than the average does.

        A high share of near-copies (see `metrics.near_copies`) means that p_diff copies originals, provided that most
        averages are not near-copies themselves. Averages can be near-copies if the originals lie far from each other,
        for example after independent trainings. The errors then decide: p_diff counts as a copy if it repeats the
        errors of the originals measurably more than the average does. It does not count as a copy if it repeats them
        measurably less than another original does.
        """
        average, original = (self.get_comparison(name).max_iou for name in (self.best_average, ORIGINAL))
        errors = None if average is None else average.decision
        errs_like_a_copy = errors is Decision.WORSE and not (original and original.decision is Decision.BETTER)
        averages_are_far = self.near_copies.get(self.best_average, 0) <= 0.5
        if self.near_copies.get(GENERATED, 0) > 0.5 and (averages_are_far or errs_like_a_copy):
            return Novelty.NEAR_COPIES if errors is Decision.BETTER else Novelty.MEMORIZED
        by_errors = {
            Decision.BETTER: Novelty.NEWER,
            Decision.UNDECIDED: Novelty.AS_CLOSE,
            Decision.WORSE: Novelty.CLOSER,
        }
        return None if errors is None else by_errors[errors]

    def to_json(self) -> dict[str, Any]:
        """Return the `verdict` of metrics.json without its sentences."""
        novelty, kept = self.novelty, self.variance_kept
        return {
            "p_diff": self.p_diff.to_json(),
            "comparisons": [comparison.to_json() for comparison in self.comparisons],
            "averaging": [averaging.to_json() for averaging in self.averaging],
            "best_average": self.best_average,
            "near_copies": dict(self.near_copies),
            **({"novelty": novelty.value} if novelty is not None else {}),
            **({"variance_kept": kept} if kept is not None else {}),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Verdict":
        """Read the content that `to_json` returned.

        Raises:
            KeyError, TypeError, ValueError: The content has another format.
        """
        return cls(
            p_diff=Standing.from_json(GENERATED, content["p_diff"]),
            comparisons=tuple(Comparison.from_json(row) for row in content["comparisons"]),
            averaging=tuple(Averaging.from_json(row) for row in content["averaging"]),
            best_average=content["best_average"],
            near_copies=content["near_copies"],
            variance_kept=content.get("variance_kept"),
        )


def decide_outcome(*axes: Decision) -> Outcome:
    """Return the result over the decisions of all measured axes."""
    better, worse = Decision.BETTER in axes, Decision.WORSE in axes
    if better and worse:
        return Outcome.TRADE_OFF
    if better:
        return Outcome.DOMINATES
    return Outcome.IS_DOMINATED if worse else Outcome.TIE
