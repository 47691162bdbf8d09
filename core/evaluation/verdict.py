"""The verdict of the audit as data: is a generated model better, and is it new, than what needs no generative model?

Numbers are of test, accuracies in [0, 1]. The JSON of metrics.json is written and read here and nowhere else.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from core.evaluation.kinds import GENERATED, ORIGINAL


class Decision(StrEnum):
    """What the interval of a difference says; better means more accurate, or newer."""

    BETTER = "better"
    WORSE = "worse"
    UNDECIDED = "undecided"


class Outcome(StrEnum):
    """One word for both axes of a comparison."""

    DOMINATES = "dominates"
    IS_DOMINATED = "is dominated"
    TRADE_OFF = "trade-off"
    TIE = "tie"


class Novelty(StrEnum):
    """How new p_diff is, measured against the most accurate average of checkpoints."""

    MEMORIZED = "memorized"
    CLOSER = "closer than an average"
    AS_CLOSE = "as close as an average"
    NEAR_COPIES = "near-copies that err otherwise"
    NEWER = "newer than an average"


@dataclass(frozen=True)
class Difference:
    """A mean of one source minus that of another."""

    value: float
    interval: tuple[float, float] | None  # of 95 %; None where there is nothing to resample
    decision: Decision

    def to_json(self, prefix: str = "") -> dict[str, Any]:
        """Return the entries of metrics.json, each name after `prefix`."""
        ends = {f"{prefix}interval": list(self.interval)} if self.interval is not None else {}
        return {f"{prefix}difference": self.value, **ends, f"{prefix}is": self.decision.value}

    @classmethod
    def from_json(cls, row: Mapping[str, Any], prefix: str = "") -> "Difference":
        """Read what `to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError: the row is not of this format.
        """
        low_high = row.get(f"{prefix}interval")
        interval = None if low_high is None else (float(low_high[0]), float(low_high[1]))
        return cls(float(row[f"{prefix}difference"]), interval, Decision(row[f"{prefix}is"]))


@dataclass(frozen=True)
class Standing:
    """One source on both axes; an IoU that was not measured is None."""

    source: str
    n: int
    accuracy_mean: float
    max_iou_mean: float | None = None  # mean over models of the largest IoU with an original

    def to_json(self) -> dict[str, Any]:
        """Return the entries of metrics.json, without the name."""
        iou = {"max_iou_mean": self.max_iou_mean} if self.max_iou_mean is not None else {}
        return {"n": self.n, "accuracy_mean": self.accuracy_mean, **iou}

    @classmethod
    def from_json(cls, source: str, row: Mapping[str, Any]) -> "Standing":
        """Read what `to_json` wrote."""
        return cls(source, row["n"], row["accuracy_mean"], row.get("max_iou_mean"))


@dataclass(frozen=True)
class Comparison:
    """p_diff against one baseline, on each axis p_diff minus the baseline."""

    baseline: Standing
    accuracy: Difference
    max_iou: Difference | None  # None where it was not measured

    @property
    def outcome(self) -> Outcome:
        """The word for all axes that were measured."""
        return outcome(*(axis.decision for axis in (self.accuracy, self.max_iou) if axis is not None))

    def to_json(self) -> dict[str, Any]:
        """Return the row of metrics.json."""
        axes = self.accuracy.to_json("accuracy_") | (self.max_iou.to_json("max_iou_") if self.max_iou else {})
        return {"baseline": self.baseline.source, **self.baseline.to_json(), **axes, "outcome": self.outcome.value}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> "Comparison":
        """Read what `to_json` wrote."""
        max_iou = Difference.from_json(row, "max_iou_") if "max_iou_difference" in row else None
        return cls(Standing.from_json(row["baseline"], row), Difference.from_json(row, "accuracy_"), max_iou)


@dataclass(frozen=True)
class Averaging:
    """Gain of p_diff over the originals, gain of averaging them, and the difference of the two gains."""

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
        """Read what `to_json` wrote."""
        gains = (Difference.from_json(row[name]) for name in ("p_diff_gain", "average_gain", "gain_difference"))
        return cls(row["source"], *gains)


@dataclass(frozen=True)
class Verdict:
    """Everything said of p_diff against each baseline."""

    p_diff: Standing
    comparisons: tuple[Comparison, ...]
    averaging: tuple[Averaging, ...]
    best_average: str  # the most accurate average of checkpoints
    near_copies: Mapping[str, float]  # share of near-copies by source; empty where there is one original
    variance_kept: float | None = None  # share of the originals' variance that the autoencoder keeps

    def against(self, baseline: str) -> Comparison:
        """Return the comparison with this baseline."""
        return next(comparison for comparison in self.comparisons if comparison.baseline.source == baseline)

    @property
    def novelty(self) -> Novelty | None:
        """How new p_diff is; None where nothing tells.

        An average is no copy of anyone, yet nothing but the originals is in it: what is to count as new must repeat the
        originals' errors less than that. Near-copies tell of copying where averages are not as near to an original as
        p_diff is (see `metrics.near_copies`). Where they are, as among independent trainings, which all lie far from
        each other, errors have to tell: repeated more than by an average, and no less than by another original.
        """
        average, original = (self.against(name).max_iou for name in (self.best_average, ORIGINAL))
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
        """Return the `verdict` of metrics.json, without its sentences."""
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
        """Read what `to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError: the content is not of this format.
        """
        return cls(
            p_diff=Standing.from_json(GENERATED, content["p_diff"]),
            comparisons=tuple(Comparison.from_json(row) for row in content["comparisons"]),
            averaging=tuple(Averaging.from_json(row) for row in content["averaging"]),
            best_average=content["best_average"],
            near_copies=content["near_copies"],
            variance_kept=content.get("variance_kept"),
        )


def outcome(*axes: Decision) -> Outcome:
    """Return one word for all axes; an axis that was not measured is not among them."""
    better, worse = Decision.BETTER in axes, Decision.WORSE in axes
    if better and worse:
        return Outcome.TRADE_OFF
    if better:
        return Outcome.DOMINATES
    return Outcome.IS_DOMINATED if worse else Outcome.TIE
