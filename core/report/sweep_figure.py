"""The figure of accuracy and novelty over one setting of several runs."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from core.report.metric_words import ACCURACY_WORDS, MetricWords
from core.report.style import make_figure, styled, use_plain_log_ticks

LINE_LOOKS = (  # (color, marker) of each line; the markers differ in grayscale, too
    ("#d55e00", "o"),
    ("#0072b2", "s"),
    ("#009e73", "^"),
    ("#cc79a7", "D"),
    ("#e69f00", "v"),
    ("#56b4e9", "P"),
    ("#7f3c8d", "X"),
    ("#3b3b3b", "p"),
)
MOST_LETTERS = 60  # If all words together have more letters, they are turned, because they do not fit side by side.
SPREAD_OF_WORDS = 0.5  # Lines stand side by side over this width at each word; words are 1 apart.


class Point(NamedTuple):
    """One run. A measure is None if it was not measured."""

    value: float | str  # the value of the setting
    p_diff_mean: float | None
    p_diff_best: float | None
    original_mean: float | None  # the primary metric; accuracies are in [0, 1]
    max_iou: float | None  # the mean over the generated models


MEASURES: dict[str, tuple[str, Any, str]] = {  # measure -> (line style, fill of the marker, label)
    "p_diff_mean": ("-", "full", "p_diff mean"),
    "p_diff_best": (":", "none", "p_diff best on test"),
    "original_mean": ("--", "left", "original mean"),
}


@styled
def draw_sweep(setting: str, lines: Mapping[str, Sequence[Point]], words: MetricWords = ACCURACY_WORDS) -> Figure:
    """Draw accuracy above and similarity to the originals below, with one color and marker per line.

    Runs with the same value are averaged, and each is also a dot. If the values are words, they stand side by side in
    the order of their first run, and no line joins them.

    Args:
        setting: The dotted name of the setting.
        lines: The points of each line, by the name of the line.
        words: The words for the primary metric, of which better values stand higher.
    """
    values = [point.value for points in lines.values() for point in points]
    texts = list(dict.fromkeys(map(str, values))) if any(isinstance(value, str) for value in values) else []
    numbers = [value for value in values if not isinstance(value, str)]
    has_iou = any(point.max_iou is not None for points in lines.values() for point in points)
    drawn = make_figure((6.2 if has_iou else 4.2) + 0.22 * len(lines))
    heights = [3, 2] if has_iou else [1]
    panels = drawn.subplots(len(heights), sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for index, points in enumerate(lines.values()):
        if texts:
            shift = SPREAD_OF_WORDS * ((index + 0.5) / len(lines) - 0.5)
            points = [point._replace(value=texts.index(str(point.value)) + shift) for point in points]
        for measure in MEASURES:
            draw_line(panels[0], points, measure, scale=words.scale, look=line_look(index, measure, joined=not texts))
        if has_iou:
            look = line_look(index, "p_diff_mean", joined=not texts)
            draw_line(panels[1], points, "max_iou", scale=1, look=look)
    panels[0].set_ylabel(f"test {words.name} (%)" if words.metric.in_percent else f"test {words.name}")
    if not words.metric.higher_is_better:
        panels[0].invert_yaxis()
    if has_iou:
        panels[1].set_ylabel("p_diff max IoU\n(lower is newer)")
    scale_values(panels[-1], texts, numbers)
    panels[-1].set_xlabel(setting)
    drawn.align_ylabels()
    add_legends(drawn, list(lines), joined=not texts)
    return drawn


def line_look(index: int, measure: str, *, joined: bool) -> dict[str, Any]:
    """Return matplotlib's keywords for one measure of one line.

    Lines beyond the palette reuse its colors with other markers.
    """
    count = len(LINE_LOOKS)
    color, marker = LINE_LOOKS[index % count][0], LINE_LOOKS[(index + index // count) % count][1]
    dashes, fill, _ = MEASURES[measure]
    return {"color": color, "marker": marker, "fillstyle": fill, "ls": dashes if joined else ""}


def scale_values(axes: Axes, words: Sequence[str], numbers: Sequence[float]) -> None:
    """Scale the axis of the setting: words side by side, or numbers, logarithmic if they span a wide range."""
    if words:
        axes.set_xticks(range(len(words)), words)
        if len(words) * max(map(len, words)) > MOST_LETTERS:
            axes.set_xticks(range(len(words)), words, rotation=20, ha="right")
        axes.set_xlim(-0.5, len(words) - 0.5)
    elif min(numbers) > 0 and max(numbers) / min(numbers) > 20:
        axes.set_xscale("log")
        use_plain_log_ticks(axes.xaxis)


def add_legends(drawn: Figure, groups: Sequence[str], *, joined: bool) -> None:
    """Add two legends: the measures above the panels, and the lines below."""
    measures = [
        Line2D([], [], color="#555555", ls=dashes if joined else "", marker="o", fillstyle=fill, ms=6, label=label)
        for dashes, fill, label in MEASURES.values()
    ]
    lines = [
        Line2D([], [], label=label, lw=2, ms=6, **line_look(index, "p_diff_mean", joined=joined))
        for index, label in enumerate(groups)
    ]
    drawn.legend(handles=measures, loc="outside upper center", ncols=3)
    drawn.legend(handles=lines, loc="outside lower center", ncols=1)


def draw_line(axes: Axes, points: Sequence[Point], measure: str, *, scale: float, look: Mapping[str, Any]) -> None:
    """Draw the mean over runs with the same value, and every run as a dot if several share a value."""
    known = [(point.value, scale * getattr(point, measure)) for point in points if getattr(point, measure) is not None]
    values = sorted({value for value, _ in known})
    means = [np.mean([result for found, result in known if found == value]) for value in values]
    axes.plot(values, means, ms=6, lw=1.6, **look)
    if len(known) > len(values):
        at, results = zip(*known, strict=True)
        axes.scatter(at, results, s=9, color=look["color"], alpha=0.5, linewidths=0)
