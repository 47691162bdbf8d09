"""The first screen of the report: the run in three sentences, and the verdict in three numbers."""

from typing import NamedTuple

from core.evaluation.kinds import GENERATED, ORIGINAL
from core.evaluation.scores import Scores
from core.evaluation.verdict import HONEST_COPIES, Decision, Difference, Doubt, Novelty, Verdict
from core.report.cells import format_number, format_signed
from core.report.glossary import explain_sources
from core.report.metric_words import MetricWords
from core.report.phrases import format_level
from core.report.run_files import RunFiles
from core.report.tables import format_signed_interval

SYSTEMS = {"ae_ddpm": "latent diffusion", "vae": "sampling a variational autoencoder"}
DOUBTS = {  # why a max IoU that is lower, or higher, does not show that a source is newer
    (Doubt.COPIES, Decision.BETTER): "lower, but most models are copies",
    (Doubt.COPIES, Decision.WORSE): "higher, but the other source copies",
    (Doubt.ACCURACY, Decision.BETTER): "lower, but less accurate",
    (Doubt.UNCERTAIN, Decision.BETTER): "lower; accuracy too uncertain to tell",
    (Doubt.CONSISTENCY, Decision.BETTER): "lower, but relative κ is not measurably",
    (Doubt.ACCURACY, Decision.WORSE): "higher, but more accurate",
    (Doubt.UNCERTAIN, Decision.WORSE): "higher; accuracy too uncertain to tell",
    (Doubt.CONSISTENCY, Decision.WORSE): "higher, but relative κ is not measurably",
}
PARTS = ("autoencoder", "denoiser")  # the sections of the system that name a class


class KeyNumber(NamedTuple):
    """One number of the verdict with the words that explain it."""

    label: str
    value: str
    meaning: str  # what the number says in words
    detail: str
    tone: str  # "good", "bad" or "neutral"


def describe_run(run: RunFiles) -> dict[str, str]:
    """Return what was trained, generated and measured, one sentence each."""
    counts = {row["source"]: row["n"] for row in run.metrics["table"]}
    return {
        "Trained": describe_training(run, counts.get(ORIGINAL)),
        "Generated": describe_generation(run, counts.get(GENERATED)),
        "Measured": describe_measurement(run, len(counts) - 1),
    }


def describe_training(run: RunFiles, count: int | None) -> str:
    """Describe the checkpoints: their network and dataset, how many there are, and which parameters they hold."""
    original = run.tables.get(ORIGINAL)
    numbers = f"D = {original.vectors_MD.shape[1]:,} numbers each" if original is not None else ""
    parameters = describe_parameters(run)
    content = f"{numbers} ({parameters})" if numbers and parameters else numbers or parameters
    network = f"{run.model} on {run.dataset}" if run.dataset and run.model else "a classifier"
    checkpoints = f"K = {count} checkpoints" if count else "checkpoints"
    return f"{network}, kept as {checkpoints}" + (f" of {content}." if content else ".")


def describe_parameters(run: RunFiles) -> str:
    """Name the parameters that are generated; return an empty text if config.yaml does not say."""
    subset, count = run.task_setting("param", "subset"), run.task_setting("param", "count")
    if subset == "last_norms":
        return (
            f"weights and biases of the last {count} normalization layers" if count else "the last normalization layers"
        )
    if subset == "all":
        return "every parameter of the network"
    return "parameters named " + ", ".join(map(str, subset)) if isinstance(subset, list) else ""


def describe_generation(run: RunFiles, count: int | None) -> str:
    """Describe the generated models and the system that generated them."""
    name = run.setting("system", "name")
    classes = [run.setting("system", part, "_target_") for part in PARTS]
    parts = [f"system={name}", *(str(target).rpartition(".")[2] for target in classes if target)]
    if steps := run.setting("system", "sampler", "num_steps"):
        parts.append(f"{steps} sampling steps")
    means = f" by {SYSTEMS.get(name, 'another system')} ({', '.join(parts)})" if name else ""
    return (f"M = {count} models" if count else "models") + f", named p_diff,{means}.".replace(",.", ".")


def describe_measurement(run: RunFiles, others: int) -> str:
    """Describe what the models were measured with."""
    words, original = MetricWords.read(run.metrics), run.tables.get(ORIGINAL)
    count = count_items(original.scores["test"], words) if original is not None else None
    items = f"test {words.items}" if count is None else f"{count:,} test {words.items}"
    return f"{words.name} and novelty on {items}, against {others} other sources of weights (baselines)."


def count_items(scores: Scores, words: MetricWords) -> int | None:
    """Return the number of test items, where a group of errors, such as the pixels of an image, is one item.

    Versions of one image, however, count one by one, because each of them is classified.
    """
    if scores.groups_N is not None and not words.is_accuracy:
        return len(set(scores.groups_N.tolist()))
    return scores.num_items


def choose_key_numbers(verdict: Verdict | None) -> list[KeyNumber]:
    """Return accuracy and max IoU compared with the best free source, and the share of copies."""
    if verdict is None:
        return []
    baseline = verdict.reference
    against, explanation = verdict.get_comparison(baseline), explain_sources([baseline]).get(baseline)
    words, ends = MetricWords(verdict.metric), against.accuracy.interval or ()
    shown = words.format_difference(against.accuracy.value, *ends)
    numbers = [
        KeyNumber(
            f"{words.title} against {baseline}",
            f"{shown} {words.short_unit}".rstrip(),
            word_decision(against.accuracy.decision, words.better, words.worse),
            word_interval(against.accuracy, " to ".join(words.format_ends(ends, against.accuracy.value)))
            + words.adapt("Above 0 is better.")
            + (f" {baseline}: {words.adapt(explanation)}." if explanation else ""),
            choose_tone(against.accuracy.decision),
        )
    ]
    if against.max_iou is not None and against.newness is not None:
        ours, theirs = (format_number(standing.max_iou_mean) for standing in (verdict.p_diff, against.baseline))
        newness = word_decision(against.newness, "newer", "less new")
        overlap = format_signed_interval(against.max_iou.interval) if against.max_iou.interval else ""
        numbers.append(
            KeyNumber(
                f"Max IoU against {baseline}",
                format_signed(against.max_iou.value),
                words.adapt(DOUBTS[against.doubt, against.max_iou.decision]) if against.doubt else newness,
                f"{ours} minus {theirs}. {word_interval(against.max_iou, overlap)}Max IoU is the share of errors in "
                "common with the most similar checkpoint, where 1 means the same errors. Below 0, generated models are "
                f"newer, provided that they are not {words.worse}{words.margin}, that their relative κ is lower, "
                "too, and that most of them are no copies.",
                choose_tone(against.newness),
            )
        )
    if (closeness := verdict.closeness.get(GENERATED)) is not None:
        numbers.append(
            KeyNumber(
                "Copies",
                f"{100 * closeness.copies:.0f}%",
                "of the generated models",
                "lie nearer to a checkpoint than new checkpoints do, of which up to 10% count as copies, too.",
                "bad" if verdict.novelty is Novelty.MEMORIZED or closeness.copies > HONEST_COPIES else "neutral",
            )
        )
    return numbers


def word_decision(decision: Decision, better: str, worse: str) -> str:
    """Say in a few words what was decided."""
    return {Decision.BETTER: better, Decision.WORSE: worse, Decision.UNDECIDED: "no measurable difference"}[decision]


def word_interval(difference: Difference, ends: str) -> str:
    """Return the interval with these ends as a sentence with a space after it, or an empty text if there is none."""
    if difference.interval is None:
        return ""
    return f"{format_level(difference.level)} interval {ends}. "


def choose_tone(decision: Decision) -> str:
    """Return the class of the page's style for a decision."""
    return {Decision.BETTER: "good", Decision.WORSE: "bad", Decision.UNDECIDED: "neutral"}[decision]
