"""The verdict in plain English: each statement is made from its numbers."""

from typing import Any

from core.evaluation.copying import Behavior
from core.evaluation.groups import Group
from core.evaluation.kinds import GENERATED, ORIGINAL
from core.evaluation.verdict import HONEST_COPIES, Comparison, Decision, Novelty, Outcome, Standing, Verdict
from core.report.glossary import find_meaning
from core.report.metric_words import MetricWords
from core.report.phrases import (
    explain,
    format_cost,
    format_level,
    format_max_iou,
    format_names,
    format_points,
    join_words,
    word_difference,
)

FREE = "the sources that need no further training"
NEWER_AT = {  # the accuracy at which p_diff is newer
    Decision.BETTER: ", at a higher accuracy",
    Decision.UNDECIDED: ", at an accuracy that is lower by less than half a point, if at all",
    Decision.WORSE: ", at an accuracy that is lower by less than half a point",
}
NEWER_WITH = {  # the same for the {} of any other metric
    Decision.BETTER: ", and better in {}",
    Decision.UNDECIDED: ", and worse in {} by less than half a point, if at all",
    Decision.WORSE: ", and worse in {} by less than half a point",
}
NOVELTY = {  # The first {} stands for the source with which p_diff is compared.
    Novelty.MEMORIZED: "They are memorized, not new: most of them are copies of a checkpoint.",
    Novelty.CLOSER: "They are not new: they repeat the errors of a checkpoint more than {} does.",
    Novelty.AS_CLOSE: "They are not measurably newer than {}.",
    Novelty.WORSE: "They are different because worse: less accurate than {}, they add errors of their own, "
    "so they share a smaller part of their errors with a checkpoint.",
    Novelty.UNCLEAR: "It cannot be told whether they are new: they share a smaller part of their errors with a "
    "checkpoint, but perhaps only because they are less accurate than {}.",
    Novelty.CONSISTENT: "They are not measurably newer than {}: they share a smaller part of their errors with a "
    "checkpoint, but not measurably of the errors that they could share at their accuracy.",
    Novelty.CONTESTED: "It cannot be told whether they are new: {} repeats the errors of a checkpoint less, and is not "
    "measurably less accurate.",
    Novelty.NO_SAMPLES: "They do not count as new, although they repeat the errors of a checkpoint less than {} does.",
    Novelty.NEWER: "They are newer than {}: they repeat the errors of a checkpoint less{}.",
    None: "It was not measured whether they are new.",
}
BEHAVIORS = {  # what generated models are, if they are not plain samples; copies are told by the novelty
    Behavior.COLLAPSED: "They are one model repeated.",
    Behavior.AVERAGES: "They are averages: they lie much nearer to the mean of the checkpoints than checkpoints do.",
}
LEAST_FAR = 5  # Checkpoints lie once as far from their mean, so models at more than this are outside of their range.
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
    """Return 4 to 7 statements of a few sentences each; the first is the headline."""
    statements = [
        write_headline(verdict),
        write_gain(verdict),
        write_copying(verdict),
        write_outcomes(verdict),
        write_trained(verdict),
        write_caution(verdict),
        write_method(verdict),
    ]
    return [statement for statement in statements if statement]


def write_headline(verdict: Verdict) -> str:
    """Say whether generated models are better than the free sources in the primary metric, and whether they are new."""
    return " ".join(part for part in (write_answer(verdict), write_behavior(verdict), write_novelty(verdict)) if part)


def write_answer(verdict: Verdict) -> str:
    """Say whether generated models beat the best free source, and which free source they do not beat."""
    against, models = verdict.get_comparison(verdict.reference), "the generated models (p_diff)"
    reference = f"{explain(verdict.reference)}, the best on {name_split(verdict)} of {FREE}"
    words = MetricWords(verdict.metric)
    points = format_points(against.accuracy, words)
    if verdict.answer is Decision.BETTER:
        return f"Yes, {models} are {words.better} than {reference}: {points}."
    if against.accuracy.decision is Decision.WORSE:
        return f"No, {models} are {words.worse} than {reference}: {points}."
    if against.accuracy.decision is Decision.UNDECIDED and verdict.answer is Decision.UNDECIDED:
        return f"No, {models} are not measurably {words.better} than {reference}: {points}."
    objection = find_objection(verdict)
    verb = words.worse if verdict.answer is Decision.WORSE else f"not measurably {words.better}"
    other = f"{explain(objection.baseline.source)}, one of {FREE}: {format_points(objection.accuracy, words)}"
    if against.accuracy.decision is Decision.UNDECIDED:
        return (
            f"No, {models} are {verb} than {other}. They are not measurably different in {words.name} from "
            f"{reference}: {points}."
        )
    return f"No, {models} are {verb} than {other}. They are {words.better} than {reference}: {points}."


def find_objection(verdict: Verdict) -> Comparison:
    """Return the comparison with the free source that forbids a yes although the reference does not.

    It is a source that p_diff is measurably worse than, or else one that it is not measurably better than. Of several,
    the one against which p_diff does worst is returned.
    """
    free = verdict.list_group(Group.ORIGINAL, Group.FREE)
    worse = [row for row in free if row.accuracy.decision is Decision.WORSE]
    if worse:
        return max(worse, key=lambda row: abs(row.accuracy.value))
    # Nothing forbids a yes but a lead over the reference that is too small elsewhere, so its sign is the good one.
    sign = 1 if verdict.get_comparison(verdict.reference).accuracy.value > 0 else -1
    undecided = [row for row in free if row.accuracy.decision is Decision.UNDECIDED]
    return min(undecided, key=lambda row: sign * row.accuracy.value)


def name_split(verdict: Verdict) -> str:
    """Return the items on which the best free source was chosen."""
    return f"{'validation' if verdict.chosen_on == 'val' else 'test'} {MetricWords(verdict.metric).items}"


def write_behavior(verdict: Verdict) -> str:
    """Say what generated models are if they are averages, one model repeated, far away, or in part copies."""
    closeness = verdict.closeness.get(GENERATED)
    if closeness is None:
        return ""
    if closeness.deviation > LEAST_FAR:
        sentence = (
            f"They lie {closeness.deviation:.3g} times as far from the mean of the checkpoints as checkpoints do, "
        )
        collapsed = closeness.behavior is Behavior.COLLAPSED
        return f"{sentence}far outside of their range." + (f" {BEHAVIORS[Behavior.COLLAPSED]}" if collapsed else "")
    if verdict.novelty is Novelty.MEMORIZED:  # Copies that lie near the mean, too, are no averages.
        return BEHAVIORS[Behavior.COLLAPSED] if closeness.behavior is Behavior.COLLAPSED else ""
    sentences = [BEHAVIORS[closeness.behavior]] if closeness.behavior in BEHAVIORS else []
    if closeness.copies > HONEST_COPIES:
        sentences.append(f"{100 * closeness.copies:.0f}% of them are as near to a checkpoint as copies are.")
    return " ".join(sentences)


def write_novelty(verdict: Verdict) -> str:
    """Say whether generated models are new, with the maximum IoUs that show it."""
    by_rival = verdict.novelty in (Novelty.CLOSER, Novelty.CONTESTED)
    compared = verdict.rival if by_rival and verdict.rival else verdict.reference
    row, words = verdict.get_comparison(compared), MetricWords(verdict.metric)
    level = (NEWER_AT if words.is_accuracy else NEWER_WITH)[row.accuracy.decision].format(words.name)
    # Earlier versions called models newer at any accuracy.
    sentence = words.adapt(NOVELTY[verdict.novelty]).format(compared, level if row.not_inferior else "")
    if verdict.novelty is None or row.max_iou is None:
        return sentence
    overlap = format_max_iou(verdict.p_diff, row)
    sentences = [sentence, f"The overlap of errors with the most similar checkpoint (max IoU) is {overlap}."]
    if verdict.novelty is Novelty.CONSISTENT:
        sentences.append(words.adapt(write_consistency(verdict.p_diff, row)))
    return " ".join(sentence for sentence in sentences if sentence)


def write_consistency(generated: Standing, row: Comparison) -> str:
    """Compare the relative κ of p_diff with that of a baseline; empty if it was not measured."""
    ours, theirs = generated.kappa_relative_mean, row.baseline.kappa_relative_mean
    if ours is None or theirs is None:
        return ""
    compared = f"is {ours:.3f} for p_diff and {theirs:.3f} for {row.baseline.source}"
    if row.kappa_relative is not None:  # Earlier versions compared the means alone.
        compared += f", {word_difference(row.kappa_relative)}"
    return f"Error consistency (κ) over its largest value at these accuracies {compared}."


def write_gain(verdict: Verdict) -> str:
    """Compare generated models with the checkpoints, in accuracy and in errors; empty if they are the reference."""
    if verdict.reference == ORIGINAL:
        return ""
    row, words = verdict.get_comparison(ORIGINAL), MetricWords(verdict.metric)
    compared = compare_with(words)[row.accuracy.decision]
    sentence = f"Generated models are {compared} the checkpoints themselves: {format_points(row.accuracy, words)}."
    if row.max_iou is None:
        return sentence
    overlap = format_max_iou(verdict.p_diff, row)
    lag = verdict.yardstick.lag if verdict.yardstick else 0
    others = f"with checkpoints at least {lag} steps away in time" if lag else "with the other ones"
    return f"{sentence} Max IoU is {overlap}. Each checkpoint is compared {others}."


def compare_with(words: MetricWords) -> dict[Decision, str]:
    """Return how generated models compare with a source in the primary metric, before its name, by decision."""
    return {
        Decision.BETTER: f"{words.better} than",
        Decision.UNDECIDED: f"not measurably different in {words.name} from",
        Decision.WORSE: f"{words.worse} than",
    }


def write_copying(verdict: Verdict) -> str:
    """Say how near generated models are to their nearest checkpoints, and what counts as a copy."""
    closeness, yardstick = verdict.closeness.get(GENERATED), verdict.yardstick
    if closeness is None or yardstick is None:
        return "Whether generated models are copies was not measured, which needs at least 3 different checkpoints."
    honest = "checkpoints lie to each other"
    if yardstick.held_out:
        honest = f"held-out checkpoints lie to it, and much nearer than {honest}"
    if yardstick.lag:
        honest += f" (steps less than {yardstick.lag} apart are left out)"
    matched = " after matching hidden units" if yardstick.matched else ""
    distances = f"{closeness.weights:.2f} in weights{matched} (a copy: below {yardstick.weights_low:.2f})"
    if closeness.function is not None and yardstick.function_low is not None:
        distances += f" and {closeness.function:.2f} in errors (a copy: below {yardstick.function_low:.2f})"
    sentences = [
        f"{100 * closeness.copies:.0f}% of the generated models are copies, which lie much nearer to a checkpoint than "
        f"{honest}. Honest new checkpoints show up to 10%. The distance to the nearest checkpoint, relative to the "
        f"median distance to all, is {distances}."
    ]
    if closeness.behavior in BEHAVIORS:
        center = f"Generated models lie {closeness.deviation:.2f} times as far from the mean of the checkpoints"
        apart = "" if closeness.spread is None else f", and {closeness.spread:.2f} times as far from each other"
        sentences.append(f"{center}{apart}, as checkpoints do.")
    return " ".join(sentences)


def write_trained(verdict: Verdict) -> str:
    """Compare generated models with sources that train further, and name the price of both; empty without any."""
    trained = verdict.list_group(Group.TRAINED)
    if not trained:
        return ""
    parts = []
    for decision, phrase in compare_with(MetricWords(verdict.metric)).items():
        rows = [row for row in trained if row.accuracy.decision is decision]
        if rows:
            parts.append(f"{phrase} {join_words([describe_trained(row, verdict) for row in rows])}")
    sentence = f"Among the sources that train further, p_diff is {join_words(parts)}."
    if (cost := verdict.costs.get(GENERATED)) is not None:
        sentence += f" Training the generator took {format_cost(cost)} for each generated model."
    return sentence


def describe_trained(row: Comparison, verdict: Verdict) -> str:
    """Return the name of a trained source, its meaning, the difference to it, and its cost if it is known."""
    source = row.baseline.source
    cost = verdict.costs.get(source)
    price = f"{format_cost(cost)} per model" if cost is not None else None
    parts = (find_meaning(source), format_points(row.accuracy, MetricWords(verdict.metric), brackets="[]"), price)
    return f"{source} ({'; '.join(part for part in parts if part)})"


def write_outcomes(verdict: Verdict) -> str:
    """Count the free sources by the outcome of their comparison with p_diff."""
    free = verdict.list_group(Group.ORIGINAL, Group.FREE)
    by_outcome: dict[Outcome, list[str]] = {}
    for comparison in free:
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
    words = MetricWords(verdict.metric)
    if verdict.p_diff.max_iou_mean is None:
        measures, definition = words.name, f"measurably {words.better}"
    else:
        measures, definition = (
            f"{words.name} and newness",
            "measurably better in one and not measurably worse in the other",
        )
    return (
        f"Compared in {measures} with the {len(free)} sources that need no further training, p_diff "
        f"{join_words(counts)}. One source dominates another if it is {definition}."
    )


def write_method(verdict: Verdict) -> str:
    """Say how differences were decided."""
    words = MetricWords(verdict.metric)
    sentences = [
        f"Of {FREE}, {verdict.reference} is {words.best} on {name_split(verdict)}"
        + (", which had to decide because not all were scored on validation." if verdict.chosen_on == "test" else "."),
        "A difference is measurable if its interval excludes 0.",
    ]
    if verdict.draws is not None:
        sentences.append(
            f"The intervals come from {verdict.draws:,} bootstrap draws of models and {words.items}. All but that of "
            f"the headline's {words.name} have a level of {format_level(verdict.interval_level)}, at which at most 5% "
            "of the differences called measurable are expected to be chance."
        )
    blocks = [f"{length} ({source})" for source, length in verdict.block_lengths.items() if length > 1]
    if blocks:
        sentences.append(f"Steps of one training are resampled in blocks of {join_words(blocks)}.")
    return " ".join(sentences)


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
