"""The phrases of which the sentences of a verdict consist: names, lists, differences and their intervals."""

from collections.abc import Sequence

from core.evaluation.verdict import Comparison, Difference, Standing
from core.report.cells import format_signed
from core.report.glossary import find_meaning
from core.report.metric_words import MetricWords


def format_cost(cost: float) -> str:
    """Return a number of training steps, which is that of gradient evaluations, with three digits."""
    return f"{float(f'{cost:.3g}'):,g} training steps"


def explain(source: str) -> str:
    """Return the name of a source with its meaning in parentheses, or the bare name of an unknown source."""
    meaning = find_meaning(source)
    return source if meaning is None else f"{source} ({meaning})"


def join_words(words: Sequence[str]) -> str:
    """Return the words as a list in a sentence: "a, b and c"."""
    return " and ".join(part for part in (", ".join(words[:-1]), words[-1]) if part)


def format_names(names: Sequence[str]) -> str:
    """Return the number of names and the names."""
    return f"{len(names)} ({', '.join(names)})"


def format_points(difference: Difference, words: MetricWords, brackets: str = "()") -> str:
    """Return a difference of the primary metric on test with its unit and its interval."""
    ends = difference.interval or ()
    shown = words.format_difference(difference.value, *ends) + (f" {words.unit}" if words.unit else "")
    return f"{shown}{bracket_interval(difference, words.format_ends(ends, difference.value), brackets)}"


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
    return f"{means}, {word_difference(difference)}"


def word_difference(difference: Difference) -> str:
    """Return a difference of similarities with its interval in words."""
    ends = [format_signed(end) for end in difference.interval or ()]
    return f"a difference of {format_signed(difference.value)}{bracket_interval(difference, ends)}"


def bracket_interval(difference: Difference, ends: Sequence[str], brackets: str = "()") -> str:
    """Return the interval in brackets after a space, given its formatted ends, or an empty text if there is none."""
    if difference.interval is None:
        return ""
    low, high = ends
    return f" {brackets[0]}{format_level(difference.level)} interval {low} to {high}{brackets[1]}"


def format_level(level: float) -> str:
    """Return a level in percent with as few decimals as tell it from 100%."""
    decimals = 1 if level < 0.9995 else 2
    return f"{100 * level:.{decimals}f}".removesuffix(".0") + "%"
