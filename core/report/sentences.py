"""The verdict in plain English: each sentence is worded from its numbers."""

from collections.abc import Sequence
from typing import Any

from core.evaluation.kinds import GENERATED, ORIGINAL
from core.evaluation.verdict import Comparison, Decision, Difference, Novelty, Outcome, Standing, Verdict

NOVELTY = {
    Novelty.MEMORIZED: "it is memorized rather than new",
    Novelty.CLOSER: "it is not new, it repeats the errors of an original more than such an average does",
    Novelty.AS_CLOSE: "it is no newer than such an average",
    Novelty.NEAR_COPIES: "its weights are near-copies of originals, "
    "although it repeats their errors less than such an average does",
    Novelty.NEWER: "it is newer than such an average",
    None: "whether it is new was not measured",
}
ANSWERS = {
    Decision.BETTER: "Yes, a generated model beats an average of checkpoints",
    Decision.WORSE: "No, a generated model falls short of an average of checkpoints",
    Decision.UNDECIDED: "No, a generated model does not measurably beat an average of checkpoints",
}
LEAST_KEPT = 0.5  # of the originals' variance; an autoencoder that loses more leaves diffusion little to learn


def worded(verdict: Verdict) -> dict[str, Any]:
    """Return the `verdict` of metrics.json: its numbers, its sentences, and a caution where there is one."""
    said = caution(verdict)
    return {**verdict.to_json(), **({"caution": said} if said else {}), "sentences": sentences(verdict)}


def sentences(verdict: Verdict) -> list[str]:
    """Return 3 to 6 sentences; the first says whether a generated model beats an average, and is new or memorized."""
    said = [headline(verdict), gains(verdict), nearness(verdict), strongest(verdict), caution(verdict)]
    return [sentence for sentence in [*said, outcomes(verdict)] if sentence]


def headline(verdict: Verdict) -> str:
    """Answer whether a generated model is better than an average of checkpoints, and new or memorized.

    Checkpoints of independent trainings cannot be averaged: better than their average is then not yet good.
    """
    average, original = verdict.against(verdict.best_average), verdict.against(ORIGINAL)
    evidence = f" ({max_ious(verdict.p_diff, average)})" if average.max_iou else ""
    loss = ""
    if average.accuracy.decision is Decision.BETTER and original.accuracy.decision is Decision.WORSE:
        loss = f" but falls short of the originals ({points(original.accuracy)})"
    answer = f"{ANSWERS[average.accuracy.decision]} ({points(average.accuracy)}, against {average.baseline.source})"
    return f"{answer}{loss}, and {NOVELTY[verdict.novelty]}{evidence}."


def gains(verdict: Verdict) -> str:
    """Word the gain over the originals beside that of averaging them."""
    row = next(row for row in verdict.averaging if row.source == verdict.best_average)
    verb = {
        Decision.BETTER: "gains on the originals",
        Decision.WORSE: "loses against the originals",
        Decision.UNDECIDED: "neither gains nor loses measurably against the originals",
    }
    relation = {
        Decision.BETTER: "better than",
        Decision.WORSE: "worse than",
        Decision.UNDECIDED: "not measurably different from",
    }[row.gain_difference.decision]
    return (
        f"p_diff {verb[row.p_diff_gain.decision]} ({points(row.p_diff_gain)}), "
        f"and {row.source} {verb[row.average_gain.decision]} ({points(row.average_gain)}): "
        f"the change by p_diff is {relation} that by averaging ({points(row.gain_difference)})."
    )


def nearness(verdict: Verdict) -> str:
    """Word how near the originals p_diff is, in errors and in weights."""
    parts, original, near = [], verdict.against(ORIGINAL), verdict.near_copies
    if original.max_iou:
        relation = {
            Decision.BETTER: "less than",
            Decision.WORSE: "more than",
            Decision.UNDECIDED: "about as much as",
        }[original.max_iou.decision]
        parts.append(
            f"a generated model repeats the errors of its nearest original {relation} another original does "
            f"({max_ious(verdict.p_diff, original)})"
        )
    if near:
        averages = [f"{100 * share:.0f} % of {source}" for source, share in near.items() if source != GENERATED]
        parts.append(
            f"{100 * near[GENERATED]:.0f} % of the generated models ({' and '.join(averages)}) "
            "lie nearer to an original than any two originals lie to each other"
        )
    text = "; ".join(parts)
    return text and f"{text[0].upper()}{text[1:]}."


def strongest(verdict: Verdict) -> str:
    """Name the baseline that is hardest to beat in accuracy."""
    row = max(verdict.comparisons, key=lambda comparison: comparison.baseline.accuracy_mean)
    ending = {
        Decision.BETTER: "p_diff is more accurate",
        Decision.WORSE: "p_diff is less accurate",
        Decision.UNDECIDED: "p_diff cannot be told from it",
    }[row.accuracy.decision]
    theirs, ours = (f"{100 * standing.accuracy_mean:.2f} %" for standing in (row.baseline, verdict.p_diff))
    return (
        f"The most accurate baseline is {row.baseline.source} ({theirs} against {ours} of p_diff), "
        f"and {ending}: {points(row.accuracy)}."
    )


def outcomes(verdict: Verdict) -> str:
    """Sum up all baselines, on both axes."""
    by_outcome: dict[Outcome, list[str]] = {}
    for comparison in verdict.comparisons:
        by_outcome.setdefault(comparison.outcome, []).append(comparison.baseline.source)
    phrases = {
        Outcome.DOMINATES: "dominates",
        Outcome.IS_DOMINATED: "is dominated by",
        Outcome.TRADE_OFF: "is in a trade-off with",
        Outcome.TIE: "ties with",
    }
    said = [f"{phrase} {listed(by_outcome[name])}" for name, phrase in phrases.items() if name in by_outcome]
    axes = "accuracy and newness" if verdict.p_diff.max_iou_mean is not None else "accuracy"
    return f"In {axes} against {len(verdict.comparisons)} baselines, p_diff {'; '.join(said)}."


def caution(verdict: Verdict) -> str | None:
    """Say that the autoencoder loses too much, and what to do; None where it does not."""
    kept = verdict.variance_kept
    if kept is None or kept >= LEAST_KEPT:
        return None
    share = f"keeps only {100 * kept:.0f} %" if kept > 0.005 else "keeps nothing"
    return (
        f"The autoencoder {share} of the variance among the checkpoints, "
        "so generated models can be little more than their mean: "
        "try system/autoencoder=chunked, or more system.autoencoder_steps."
    )


def listed(names: Sequence[str]) -> str:
    """Word the names with their number."""
    return f"{len(names)} ({', '.join(names)})"


def points(difference: Difference) -> str:
    """Word a difference of test accuracies in percentage points with its interval."""
    return f"{100 * difference.value:+.2f} points{between(difference, 100, 2)}"


def max_ious(generated: Standing, comparison: Comparison) -> str:
    """Word the maximum IoU of p_diff and of one baseline, with the interval of their difference.

    Raises:
        ValueError: it was not measured.
    """
    difference = comparison.max_iou
    if difference is None:
        raise ValueError(f"no maximum IoU was measured against {comparison.baseline.source}")
    means = f"{generated.max_iou_mean:.3f} against {comparison.baseline.max_iou_mean:.3f}"
    return f"maximum IoU {means}, {difference.value:+.3f}{between(difference, 1, 3)}"


def between(difference: Difference, scale: float, decimals: int) -> str:
    """Word the interval, or nothing where there is none."""
    if difference.interval is None:
        return ""
    low, high = (f"{scale * end:+.{decimals}f}" for end in difference.interval)
    return f", 95 % interval {low} to {high}"
