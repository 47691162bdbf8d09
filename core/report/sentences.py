"""The verdict in plain English: each sentence is worded from its numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

NOVELTY = {
    "memorized": "it is memorized rather than new",
    "closer than an average": "it is not new, it repeats the errors of an original more than such an average does",
    "as close as an average": "it is no newer than such an average",
    "near-copies that err otherwise": "its weights are near-copies of originals, although it repeats their errors less than such an average does",
    "newer than an average": "it is newer than such an average",
    None: "whether it is new was not measured",
}


LEAST_KEPT = 0.5  # of the originals' variance; an autoencoder that loses more leaves diffusion little to learn


def worded(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the verdict with its sentences, and with a caution where the autoencoder loses too much."""
    kept = content.get("variance_kept")
    cautioned = {"caution": caution(kept)} if kept is not None and kept < LEAST_KEPT else {}
    return {**content, **cautioned, "sentences": sentences({**content, **cautioned})}


def sentences(content: Mapping[str, Any]) -> list[str]:
    """3 to 6 sentences; the first answers whether a generated model beats an average, and is new or memorized.

    Args:
        content: the verdict, without its sentences.
    """
    rows = {row["baseline"]: row for row in content["comparisons"]}
    original = rows["original"]
    said = [headline(content, rows[content["best_average"]], original), gains(content), nearness(content, original)]
    said += [strongest(content), content.get("caution"), outcomes(content)]
    return [sentence for sentence in said if sentence]


def headline(content: Mapping[str, Any], average: Mapping[str, Any], original: Mapping[str, Any]) -> str:
    """Better than an average of checkpoints? New or memorized?

    Checkpoints of independent trainings cannot be averaged: better than their average is then not yet good.
    """
    answer = {
        "better": "Yes, a generated model beats an average of checkpoints",
        "worse": "No, a generated model falls short of an average of checkpoints",
        "undecided": "No, a generated model does not measurably beat an average of checkpoints",
    }[average["accuracy_is"]]
    evidence = f" ({max_ious(content['p_diff'], average)})" if "max_iou_is" in average else ""
    loss = ""
    if average["accuracy_is"] == "better" and original["accuracy_is"] == "worse":
        loss = f" but falls short of the originals ({points(axis(original, 'accuracy'))})"
    return f"{answer} ({points(axis(average, 'accuracy'))}, against {average['baseline']}){loss}, and {NOVELTY[content.get('novelty')]}{evidence}."


def gains(content: Mapping[str, Any]) -> str:
    """The gain over the originals beside that of averaging them."""
    row = next(row for row in content["averaging"] if row["source"] == content["best_average"])
    verb = {
        "better": "gains on the originals",
        "worse": "loses against the originals",
        "undecided": "neither gains nor loses measurably against the originals",
    }
    relation = {"better": "better than", "worse": "worse than", "undecided": "not measurably different from"}[
        row["gain_difference"]["is"]
    ]
    return (
        f"p_diff {verb[row['p_diff_gain']['is']]} ({points(row['p_diff_gain'])}), and {row['source']} {verb[row['average_gain']['is']]} "
        f"({points(row['average_gain'])}): the change by p_diff is {relation} that by averaging ({points(row['gain_difference'])})."
    )


def nearness(content: Mapping[str, Any], original: Mapping[str, Any]) -> str:
    """How near the originals p_diff is, in errors and in weights."""
    parts = []
    if "max_iou_is" in original:
        relation = {"better": "less than", "worse": "more than", "undecided": "about as much as"}[
            original["max_iou_is"]
        ]
        parts.append(
            f"a generated model repeats the errors of its nearest original {relation} another original does ({max_ious(content['p_diff'], original)})"
        )
    near = content["near_copies"]
    if near:
        averages = " and ".join(
            f"{100 * share:.0f} % of {source}" for source, share in near.items() if source != "p_diff"
        )
        parts.append(
            f"{100 * near['p_diff']:.0f} % of the generated models ({averages}) lie nearer to an original than any two originals lie to each other"
        )
    text = "; ".join(parts)
    return text and f"{text[0].upper()}{text[1:]}."


def strongest(content: Mapping[str, Any]) -> str:
    """The baseline that is hardest to beat in accuracy."""
    row = max(content["comparisons"], key=lambda row: row["accuracy_mean"])
    ending = {
        "better": "p_diff is more accurate",
        "worse": "p_diff is less accurate",
        "undecided": "p_diff cannot be told from it",
    }[row["accuracy_is"]]
    accuracies = (
        f"{100 * row['accuracy_mean']:.2f} % against {100 * content['p_diff']['accuracy_mean']:.2f} % of p_diff"
    )
    return f"The most accurate baseline is {row['baseline']} ({accuracies}), and {ending}: {points(axis(row, 'accuracy'))}."


def outcomes(content: Mapping[str, Any]) -> str:
    """Over all baselines, on both axes."""
    by_outcome: dict[str, list[str]] = {}
    for row in content["comparisons"]:
        by_outcome.setdefault(row["outcome"], []).append(row["baseline"])
    phrases = {
        "dominates": "dominates",
        "is dominated": "is dominated by",
        "trade-off": "is in a trade-off with",
        "tie": "ties with",
    }
    said = [f"{phrase} {listed(by_outcome[name])}" for name, phrase in phrases.items() if name in by_outcome]
    axes = "accuracy and newness" if "max_iou_mean" in content["p_diff"] else "accuracy"
    return f"In {axes} against {len(content['comparisons'])} baselines, p_diff {'; '.join(said)}."


def caution(variance_kept: float) -> str:
    """That the autoencoder is at fault, and what to do."""
    kept = f"keeps only {100 * variance_kept:.0f} %" if variance_kept > 0.005 else "keeps nothing"
    return (
        f"The autoencoder {kept} of the variance among the checkpoints, so generated models can be little more than their mean: "
        "try system/autoencoder=chunked, or more system.autoencoder_steps."
    )


def listed(names: Sequence[str]) -> str:
    """The names with their number."""
    return f"{len(names)} ({', '.join(names)})"


def axis(row: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The comparison on one axis of a row of `comparisons`."""
    return {key: row[f"{name}_{key}"] for key in ("difference", "interval", "is") if f"{name}_{key}" in row}


def points(comparison: Mapping[str, Any]) -> str:
    """A difference of test accuracies in percentage points with its interval."""
    return f"{100 * comparison['difference']:+.2f} points{between(comparison, 100, 2)}"


def max_ious(generated: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """The maximum IoU of p_diff and of one baseline, with the interval of their difference."""
    comparison = axis(row, "max_iou")
    return f"maximum IoU {generated['max_iou_mean']:.3f} against {row['max_iou_mean']:.3f}, {comparison['difference']:+.3f}{between(comparison, 1, 3)}"


def between(comparison: Mapping[str, Any], scale: float, decimals: int) -> str:
    """The interval in words, or nothing where there is none."""
    if "interval" not in comparison:
        return ""
    low, high = (f"{scale * end:+.{decimals}f}" for end in comparison["interval"])
    return f", 95 % interval {low} to {high}"
