"""The verdict in plain English: each statement is made from its numbers."""

from collections.abc import Sequence
from typing import Any

from core.evaluation.kinds import (
    AVERAGE,
    ENSEMBLE,
    FINETUNED,
    GENERATED,
    NOISED,
    ORIGINAL,
    RECONSTRUCTED,
    split_number,
)
from core.evaluation.verdict import Comparison, Decision, Difference, Novelty, Outcome, Standing, Verdict
from core.report.cells import format_signed

ANSWERS = {
    Decision.BETTER: "Yes, the generated models (p_diff) are more accurate than averages of checkpoints",
    Decision.WORSE: "No, the generated models (p_diff) are less accurate than averages of checkpoints",
    Decision.UNDECIDED: "No, the generated models (p_diff) are not measurably more accurate "
    "than averages of checkpoints",
}
NOVELTY = {
    Novelty.MEMORIZED: "They are memorized, not new: most of them are near-copies of a checkpoint.",
    Novelty.CLOSER: "They are not new: they repeat the errors of a checkpoint more than averages do.",
    Novelty.AS_CLOSE: "They are not measurably newer than averages.",
    Novelty.NEAR_COPIES: "Most of them are near-copies of a checkpoint in their weights, "
    "although they repeat its errors less than averages do.",
    Novelty.NEWER: "They are newer than averages: they repeat the errors of a checkpoint less.",
    None: "It was not measured whether they are new.",
}
MEANINGS = {
    ORIGINAL: "the checkpoints themselves",
    ENSEMBLE: "the mean of all checkpoints",
    RECONSTRUCTED: "the checkpoints, encoded and decoded",
    FINETUNED: "checkpoints trained for a few more steps",
    "interpolated": "points between two random checkpoints",
    "gaussian": "samples of a Gaussian with diagonal covariance",
    "gaussian_full": "samples of a Gaussian with full covariance",
}
FAMILY_MEANINGS = {
    AVERAGE: "the mean of {:g} random checkpoints",
    NOISED: "checkpoints plus noise of {:g} times each tensor's standard deviation",
}
LEAST_TOLD = 0.005  # smaller shares of the variance round to 0%
LEAST_KEPT = 0.5  # If the autoencoder keeps a smaller share of the checkpoints' variance, little is left to learn.


def word_verdict(verdict: Verdict) -> dict[str, Any]:
    """Return the `verdict` of metrics.json: its numbers, its statements, and a caution if one is needed."""
    caution = write_caution(verdict)
    return {
        **verdict.to_json(),
        **({"caution": caution} if caution else {}),
        "sentences": write_statements(verdict),
    }


def write_statements(verdict: Verdict) -> list[str]:
    """Return 3 to 6 statements of a few sentences each; the first is the headline."""
    statements = [
        write_headline(verdict),
        write_gains(verdict),
        write_similarity(verdict),
        write_strongest_baseline(verdict),
        write_caution(verdict),
        write_outcomes(verdict),
    ]
    return [statement for statement in statements if statement]


def write_headline(verdict: Verdict) -> str:
    """Say whether generated models are more accurate than an average of checkpoints, and whether they are new.

    The average of independently trained checkpoints can be worthless. The headline therefore also says when generated
    models beat the average but not the checkpoints.
    """
    average, original = verdict.get_comparison(verdict.best_average), verdict.get_comparison(ORIGINAL)
    answer = f"{ANSWERS[average.accuracy.decision]}: {format_points(average.accuracy)}"
    sentences = [f"{answer} compared with {explain(average.baseline.source)}."]
    if average.accuracy.decision is Decision.BETTER and original.accuracy.decision is Decision.WORSE:
        sentences.append(
            f"But they are less accurate than the checkpoints themselves: {format_points(original.accuracy)}."
        )
    sentences.append(NOVELTY[verdict.novelty])
    if average.max_iou:
        overlap = format_max_iou(verdict.p_diff, average)
        sentences.append(f"The overlap of errors with the most similar checkpoint (max IoU) is {overlap}.")
    return " ".join(sentences)


def write_gains(verdict: Verdict) -> str:
    """Compare the gain of p_diff over the checkpoints with the gain of averaging them."""
    row = next(row for row in verdict.averaging if row.source == verdict.best_average)
    change = {
        Decision.BETTER: "a gain",
        Decision.WORSE: "a loss",
        Decision.UNDECIDED: "no measurable change",
    }
    conclusion = {
        Decision.BETTER: "p_diff does better than averaging",
        Decision.WORSE: "p_diff does worse than averaging",
        Decision.UNDECIDED: "The two are not measurably different",
    }[row.gain_difference.decision]
    return (
        f"Compared with the checkpoints, p_diff shows {change[row.p_diff_gain.decision]} in accuracy: "
        f"{format_points(row.p_diff_gain)}. "
        f"Averaging the checkpoints ({row.source}) shows {change[row.average_gain.decision]}: "
        f"{format_points(row.average_gain)}. "
        f"{conclusion}: {format_points(row.gain_difference)}."
    )


def write_similarity(verdict: Verdict) -> str:
    """Say how similar generated models are to the checkpoints, in errors and in weights."""
    sentences, original, near = [], verdict.get_comparison(ORIGINAL), verdict.near_copies
    if original.max_iou:
        number, difference = {
            Decision.BETTER: ("fewer errors", "than checkpoints do"),
            Decision.WORSE: ("more errors", "than checkpoints do"),
            Decision.UNDECIDED: ("about as many errors", "as checkpoints do, without a measurable difference"),
        }[original.max_iou.decision]
        sentences.append(
            f"Generated models share {number} with their most similar checkpoint {difference}. "
            f"Max IoU is {format_max_iou(verdict.p_diff, original)}."
        )
    if near:
        averages = [f"{100 * share:.0f}% of {source}" for source, share in near.items() if source != GENERATED]
        sentences.append(
            "In weights, a near-copy is closer to a checkpoint than any two checkpoints are to each other. "
            f"Near-copies make up {100 * near[GENERATED]:.0f}% of p_diff, compared with {join_words(averages)}."
        )
    return " ".join(sentences)


def write_strongest_baseline(verdict: Verdict) -> str:
    """Name the baseline of the highest accuracy and compare p_diff with it."""
    row = max(verdict.comparisons, key=lambda comparison: comparison.baseline.accuracy_mean)
    conclusion = {
        Decision.BETTER: "p_diff is more accurate",
        Decision.WORSE: "p_diff is less accurate",
        Decision.UNDECIDED: "The difference is not measurable",
    }[row.accuracy.decision]
    baseline, p_diff = (f"{100 * standing.accuracy_mean:.2f}%" for standing in (row.baseline, verdict.p_diff))
    return (
        f"The most accurate baseline is {explain(row.baseline.source)}. It reaches a mean test accuracy of {baseline}, "
        f"and p_diff reaches {p_diff}. {conclusion}: {format_points(row.accuracy)}."
    )


def write_outcomes(verdict: Verdict) -> str:
    """Count the baselines by the outcome of their comparison with p_diff."""
    by_outcome: dict[Outcome, list[str]] = {}
    for comparison in verdict.comparisons:
        by_outcome.setdefault(comparison.outcome, []).append(comparison.baseline.source)
    phrases = {
        Outcome.DOMINATES: "dominates",
        Outcome.IS_DOMINATED: "is dominated by",
        Outcome.TRADE_OFF: "has a trade-off with",
        Outcome.TIE: "ties with",
    }
    counts = [
        f"{phrase} {format_names(by_outcome[outcome])}" for outcome, phrase in phrases.items() if outcome in by_outcome
    ]
    if verdict.p_diff.max_iou_mean is None:
        measures, definition = "accuracy", "measurably more accurate"
    else:
        measures, definition = "accuracy and novelty (lower max IoU)", "measurably better in one and worse in neither"
    return (
        f"Compared with {len(verdict.comparisons)} baselines in {measures}, p_diff {join_words(counts)}. "
        f"One source dominates another if it is {definition}. "
        "A difference is measurable if its 95% interval excludes 0."
    )


def write_caution(verdict: Verdict) -> str | None:
    """Warn that the autoencoder loses too much, and say what to set; return None if it does not."""
    kept = verdict.variance_kept
    if kept is None or kept >= LEAST_KEPT:
        return None
    if kept < -LEAST_TOLD:
        return (
            "The autoencoder has not learned the checkpoints: its reconstructions are farther from them than their "
            "mean is. Set a larger system.autoencoder_steps, or another system/autoencoder."
        )
    share = f"only {100 * kept:.0f}%" if kept > LEAST_TOLD else "nothing"
    return (
        f"The autoencoder keeps {share} of the variance among the checkpoints, "
        "so generated models may be little more than the mean of the checkpoints. "
        "Set system/autoencoder=chunked or a larger system.autoencoder_steps."
    )


def explain(source: str) -> str:
    """Return the name of a source with its meaning in parentheses, or the bare name of an unknown source."""
    family, number = split_number(source)
    if number is not None and family in FAMILY_MEANINGS:
        return f"{source} ({FAMILY_MEANINGS[family].format(number)})"
    return f"{source} ({MEANINGS[source]})" if source in MEANINGS else source


def join_words(words: Sequence[str]) -> str:
    """Return the words as a list in a sentence: "a, b and c"."""
    return " and ".join(part for part in (", ".join(words[:-1]), words[-1]) if part)


def format_names(names: Sequence[str]) -> str:
    """Return the number of names and the names."""
    return f"{len(names)} ({', '.join(names)})"


def format_points(difference: Difference) -> str:
    """Return a difference of test accuracies in percentage points with its interval."""
    return f"{format_signed(difference.value, 100, 2)} percentage points{format_interval(difference, 100, 2)}"


def format_max_iou(generated: Standing, comparison: Comparison) -> str:
    """Return the maximum IoU of p_diff and of one baseline with the interval of their difference.

    Raises:
        ValueError: The maximum IoU was not measured.
    """
    difference = comparison.max_iou
    if difference is None:
        raise ValueError(f"no maximum IoU was measured for {comparison.baseline.source}")
    baseline = comparison.baseline
    means = f"{generated.max_iou_mean:.3f} for p_diff and {baseline.max_iou_mean:.3f} for {baseline.source}"
    return f"{means}, a difference of {format_signed(difference.value)}{format_interval(difference, 1, 3)}"


def format_interval(difference: Difference, scale: float, decimals: int) -> str:
    """Return the interval in parentheses after a space, or an empty text if the difference has none."""
    if difference.interval is None:
        return ""
    low, high = (format_signed(end, scale, decimals) for end in difference.interval)
    return f" (95% interval {low} to {high})"
