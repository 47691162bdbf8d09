"""The verdict as data: how p_diff compares with other sources of weights.

All numbers are measured on the test split. Accuracies, and other metrics in percent, are in [0, 1]. Only this file
defines how metrics.json stores the verdict.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from core.evaluation.copying import Behavior, Closeness
from core.evaluation.groups import Group, find_group
from core.evaluation.kinds import GENERATED
from core.evaluation.scores import ACCURACY, Metric
from core.evaluation.yardstick import Yardstick

UNADJUSTED = 0.95  # level of the interval of a single comparison
SIMILARITIES = ("max_iou_mean", "kappa_relative_mean", "overlap_mean")  # the measures of similarity of a `Standing`
HONEST_COPIES = 0.15  # In simulated walks, at most about 10% of honest new models look like copies.


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
    """The novelty of p_diff relative to the reference, which is the best free source."""

    MEMORIZED = "memorized"
    CLOSER = "not new"
    AS_CLOSE = "not measurably newer"
    WORSE = "different because worse"
    UNCLEAR = "different, perhaps because worse"
    CONSISTENT = "different, but as consistent with a checkpoint"
    CONTESTED = "newer than the reference, perhaps not than another free source"
    NO_SAMPLES = "different, but copies, averages or one model repeated"
    NEWER = "newer"


class Doubt(StrEnum):
    """The reason why a measurable difference in max IoU does not show that the source with the lower one is newer."""

    ACCURACY = "accuracy"  # the source is measurably less accurate, which explains its lower max IoU
    UNCERTAIN = "uncertain"  # the source may be less accurate, which the interval of the accuracy does not exclude
    COPIES = "copies"  # most of its models are copies, which are not new whatever their errors are
    CONSISTENCY = "consistency"  # its relative error consistency κ is not measurably lower


EARLIER_NOVELTIES = {  # names in files of earlier versions, which compared with an average of checkpoints
    "closer than an average": Novelty.CLOSER,
    "as close as an average": Novelty.AS_CLOSE,
    "newer than an average": Novelty.NEWER,
    "near-copies that err otherwise": Novelty.MEMORIZED,
}


@dataclass(frozen=True)
class Difference:
    """The mean of one source minus the mean of another."""

    value: float
    interval: tuple[float, float] | None  # None if nothing can be resampled
    decision: Decision
    p: float | None = None  # two-sided p-value of no difference; None in files of earlier versions
    level: float = UNADJUSTED  # level of the interval

    def to_json(self, prefix: str = "") -> dict[str, Any]:
        """Return the entries of metrics.json, each key starting with `prefix`."""
        resampled = {}
        if self.interval is not None:
            resampled = {f"{prefix}interval": list(self.interval), f"{prefix}level": self.level}
        p = {f"{prefix}p": self.p} if self.p is not None else {}
        return {f"{prefix}difference": self.value, **resampled, **p, f"{prefix}is": self.decision.value}

    def swap(self) -> "Difference":
        """Return the difference with the two sources swapped."""
        interval = None if self.interval is None else (-self.interval[1], -self.interval[0])
        swapped = {Decision.BETTER: Decision.WORSE, Decision.WORSE: Decision.BETTER}.get(self.decision, self.decision)
        return Difference(-self.value, interval, swapped, self.p, self.level)

    @classmethod
    def from_json(cls, row: Mapping[str, Any], prefix: str = "") -> "Difference":
        """Read the entries that `to_json` returned.

        Raises:
            KeyError, TypeError, ValueError: The row has another format.
        """
        low_high = row.get(f"{prefix}interval")
        interval = None if low_high is None else (float(low_high[0]), float(low_high[1]))
        decision, level = Decision(row[f"{prefix}is"]), row.get(f"{prefix}level", UNADJUSTED)
        return cls(float(row[f"{prefix}difference"]), interval, decision, row.get(f"{prefix}p"), level)


@dataclass(frozen=True)
class Standing:
    """The position of one source on both axes. Measures of similarity are None if they were not measured."""

    source: str
    n: int
    accuracy_mean: float
    # Each measure of a model is its largest one over the originals, and these are means over the models.
    max_iou_mean: float | None = None
    kappa_relative_mean: float | None = None  # error consistency κ over its maximum at the accuracies of the two models
    overlap_mean: float | None = None  # share of the errors of the more accurate model that the other one makes, too

    def to_json(self) -> dict[str, Any]:
        """Return the entries of metrics.json without the name of the source."""
        return {key: value for key, value in asdict(self).items() if key != "source" and value is not None}

    @classmethod
    def from_json(cls, source: str, row: Mapping[str, Any]) -> "Standing":
        """Read the entries that `to_json` returned."""
        return cls(source, row["n"], row["accuracy_mean"], **{name: row.get(name) for name in SIMILARITIES})


@dataclass(frozen=True)
class Comparison:
    """A comparison of p_diff with one baseline, where each difference is p_diff minus the baseline."""

    baseline: Standing
    accuracy: Difference
    max_iou: Difference | None  # None if not measured
    not_inferior: bool | None = None  # whether the accuracy is at most 0.5 points lower; None in earlier files
    doubt: Doubt | None = None  # why the difference in max IoU does not show newness; None if it does
    kappa_relative: Difference | None = None  # κ over its maximum; None if not measured, as in earlier files

    @property
    def newness(self) -> Decision | None:
        """The decision on the axis of newness. A difference in max IoU that does not show newness is undecided."""
        if self.max_iou is None:
            return None
        return Decision.UNDECIDED if self.doubt else self.max_iou.decision

    @property
    def outcome(self) -> Outcome:
        """The result on all measured axes together."""
        return decide_outcome(*(axis for axis in (self.accuracy.decision, self.newness) if axis is not None))

    def to_json(self) -> dict[str, Any]:
        """Return the row of metrics.json."""
        axes = self.accuracy.to_json("accuracy_")
        if self.not_inferior is not None:
            axes["not_inferior"] = self.not_inferior
        if self.max_iou is not None:
            axes |= {**self.max_iou.to_json("max_iou_"), "max_iou_counts": self.doubt is None}
        if self.kappa_relative is not None:
            axes |= self.kappa_relative.to_json("kappa_relative_")
        if self.doubt is not None:
            axes["max_iou_doubt"] = self.doubt.value
        return {"baseline": self.baseline.source, **self.baseline.to_json(), **axes, "outcome": self.outcome.value}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> "Comparison":
        """Read the row that `to_json` returned."""
        return cls(
            Standing.from_json(row["baseline"], row),
            Difference.from_json(row, "accuracy_"),
            Difference.from_json(row, "max_iou_") if "max_iou_difference" in row else None,
            row.get("not_inferior"),
            read_doubt(row),
            Difference.from_json(row, "kappa_relative_") if "kappa_relative_difference" in row else None,
        )


@dataclass(frozen=True)
class Verdict:
    """All comparisons of p_diff with other sources, and what they say together."""

    p_diff: Standing
    comparisons: tuple[Comparison, ...]  # The reference comes first.
    reference: str  # the best free source on the split `chosen_on`
    answer: Decision  # whether p_diff is measurably more accurate than every free source
    novelty: Novelty | None = None  # None if it was not measured
    chosen_on: str = "test"
    # A free source that repeats fewer errors of the originals at no inferior accuracy, or perhaps at one (`CONTESTED`)
    rival: str | None = None
    groups: Mapping[str, Group] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)  # gradient evaluations per model, where they are known
    yardstick: Yardstick | None = None  # None for fewer than 3 originals
    closeness: Mapping[str, Closeness] = field(default_factory=dict)
    variance_kept: float | None = None  # share of the originals' variance that the autoencoder keeps
    interval_level: float = UNADJUSTED  # level of all intervals except the one of accuracy against the reference
    draws: int | None = None  # number of bootstrap draws; None in files of earlier versions
    block_lengths: Mapping[str, int] = field(default_factory=dict)  # consecutive models resampled together, by source
    metric: Metric = ACCURACY  # the primary metric, whose values and differences the fields named accuracy hold

    def get_comparison(self, baseline: str) -> Comparison:
        """Return the comparison with this baseline."""
        return next(comparison for comparison in self.comparisons if comparison.baseline.source == baseline)

    def list_group(self, *groups: Group) -> list[Comparison]:
        """Return the comparisons with the sources of these groups."""
        return [row for row in self.comparisons if self.groups[row.baseline.source] in groups]

    def to_json(self) -> dict[str, Any]:
        """Return the `verdict` of metrics.json without its sentences. A value of None is left out."""
        content = {
            "p_diff": self.p_diff.to_json(),
            "reference": self.reference,
            "chosen_on": self.chosen_on,
            "answer": self.answer.value,
            "novelty": self.novelty.value if self.novelty else None,
            "rival": self.rival,
            "comparisons": [comparison.to_json() for comparison in self.comparisons],
            "groups": {source: group.value for source, group in self.groups.items()},
            "costs": dict(self.costs),
            "yardstick": asdict(self.yardstick) if self.yardstick else None,
            "closeness": {source: closeness_to_json(closeness) for source, closeness in self.closeness.items()},
            "variance_kept": self.variance_kept,
            "interval_level": self.interval_level,
            "draws": self.draws,
            "block_lengths": dict(self.block_lengths),
            **self.metric.write(),
        }
        return {key: value for key, value in content.items() if value is not None}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Verdict":
        """Read the content that `to_json` returned, or the verdict of an earlier version.

        An earlier version compared with the most accurate average of checkpoints, which then is the reference.

        Raises:
            KeyError, TypeError, ValueError: The content has another format.
        """
        comparisons = tuple(Comparison.from_json(row) for row in content["comparisons"])
        earlier = "reference" not in content
        reference = content["best_average" if earlier else "reference"]
        (against,) = (row for row in comparisons if row.baseline.source == reference)
        comparisons = (against, *(row for row in comparisons if row is not against))
        novelty = content.get("novelty")
        groups = content.get("groups") or {row.baseline.source: find_group(row.baseline.source) for row in comparisons}
        return cls(
            p_diff=Standing.from_json(GENERATED, content["p_diff"]),
            comparisons=comparisons,
            reference=reference,
            answer=against.accuracy.decision if earlier else Decision(content["answer"]),
            novelty=EARLIER_NOVELTIES.get(novelty) or Novelty(novelty) if novelty else None,
            chosen_on=content.get("chosen_on", "test"),
            rival=content.get("rival"),
            groups={source: Group(group) for source, group in groups.items()},
            costs=content.get("costs", {}),
            yardstick=Yardstick(**content["yardstick"]) if "yardstick" in content else None,
            closeness={
                source: Closeness(**{**row, "source": source, "behavior": Behavior(row["behavior"])})
                for source, row in content.get("closeness", {}).items()
            },
            variance_kept=content.get("variance_kept"),
            interval_level=content.get("interval_level", UNADJUSTED),
            draws=content.get("draws"),
            block_lengths=content.get("block_lengths", {}),
            metric=Metric.read(content),
        )


def read_doubt(row: Mapping[str, Any]) -> Doubt | None:
    """Read the doubt of a comparison. Some files only say that a lower max IoU does not count."""
    if "max_iou_doubt" in row:
        return Doubt(row["max_iou_doubt"])
    if row.get("max_iou_counts", True) or Decision(row["max_iou_is"]) is not Decision.BETTER:
        return None
    return Doubt.ACCURACY if Decision(row["accuracy_is"]) is Decision.WORSE else Doubt.UNCERTAIN


def closeness_to_json(closeness: Closeness) -> dict[str, Any]:
    """Return the entries of metrics.json without the name of the source."""
    return {key: value for key, value in asdict(closeness).items() if key != "source"} | {
        "behavior": closeness.behavior.value
    }


def decide_outcome(*axes: Decision) -> Outcome:
    """Return the result over the decisions of all measured axes."""
    better, worse = Decision.BETTER in axes, Decision.WORSE in axes
    if better and worse:
        return Outcome.TRADE_OFF
    if better:
        return Outcome.DOMINATES
    return Outcome.IS_DOMINATED if worse else Outcome.TIE
