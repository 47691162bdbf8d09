"""The figure of accuracy and novelty over one setting of several runs."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from core.report.style import figure, plain_log_ticks, styled

LINE_COLORS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f3c8d", "#3b3b3b")

MOST_LETTERS = 60  # of words side by side; more are turned


class Point(NamedTuple):
    """One run; a measure is None where it was not measured."""

    value: float | str  # of the setting
    p_diff_mean: float | None
    p_diff_best: float | None
    original_mean: float | None  # accuracies are in [0, 1]
    max_iou: float | None  # mean over the models of p_diff


MEASURES = {
    "p_diff_mean": ("-", "o", "p_diff mean"),
    "p_diff_best": (":", "^", "p_diff best on test"),
    "original_mean": ("--", "s", "original mean"),
}


@styled
def sweep_figure(setting: str, lines: Mapping[str, Sequence[Point]]) -> Figure:
    """Draw accuracy above and similarity to the originals below, with a color per line.

    Runs of the same value are averaged, and each is a dot. Words stand side by side in the order of their first run,
    and no line joins them.

    Args:
        setting: its dotted name.
        lines: points by what is the same along a line.
    """
    every = [point.value for points in lines.values() for point in points]
    words = list(dict.fromkeys(map(str, every))) if any(isinstance(value, str) for value in every) else []
    numbers = [value for value in every if not isinstance(value, str)]
    has_iou = any(point.max_iou is not None for points in lines.values() for point in points)
    drawn = figure((6.2 if has_iou else 4.2) + 0.22 * len(lines))
    panels = drawn.subplots(2 if has_iou else 1, sharex=True, squeeze=False, height_ratios=[3, 2] if has_iou else [1])[
        :, 0
    ]
    for index, points in enumerate(lines.values()):
        points = [point._replace(value=words.index(str(point.value))) for point in points] if words else points
        color = LINE_COLORS[index % len(LINE_COLORS)]
        for measure, (dashes, marker, _) in MEASURES.items():
            draw_line(panels[0], points, measure, scale=100, color=color, ls="" if words else dashes, marker=marker)
        if has_iou:
            draw_line(panels[1], points, "max_iou", scale=1, color=color, ls="" if words else "-", marker="o")
    panels[0].set_ylabel("test accuracy (%)")
    if has_iou:
        panels[1].set_ylabel("maximum IoU, p_diff")
    scale_values(panels[-1], words, numbers)
    panels[-1].set_xlabel(setting)
    drawn.align_ylabels()
    explain_lines(drawn, list(lines), dashed=not words)
    return drawn


def scale_values(axes: Axes, words: Sequence[str], numbers: Sequence[float]) -> None:
    """Scale the axis of the setting: words side by side, or numbers, logarithmic where they span a wide range."""
    if words:
        axes.set_xticks(range(len(words)), words)
        if len(words) * max(map(len, words)) > MOST_LETTERS:
            axes.set_xticks(range(len(words)), words, rotation=20, ha="right")
        axes.set_xlim(-0.5, len(words) - 0.5)
    elif min(numbers) > 0 and max(numbers) / min(numbers) > 20:
        axes.set_xscale("log")
        plain_log_ticks(axes.xaxis)


def explain_lines(drawn: Figure, groups: Sequence[str], *, dashed: bool) -> None:
    """Draw two legends: the measures above the panels, and the groups of runs below."""
    measures = [
        Line2D([], [], color="#555555", ls=dashes if dashed else "", marker=marker, ms=5, label=label)
        for dashes, marker, label in MEASURES.values()
    ]
    colors = [
        Line2D([], [], color=LINE_COLORS[index % len(LINE_COLORS)], lw=3, label=label)
        for index, label in enumerate(groups)
    ]
    drawn.legend(handles=measures, loc="outside upper center", ncols=3)
    drawn.legend(handles=colors, loc="outside lower center", ncols=1)


def draw_line(
    axes: Axes, points: Sequence[Point], measure: str, *, scale: float, color: str, ls: str, marker: str
) -> None:
    """Draw the mean over runs of the same value, and every run as a dot where there are several."""
    known = [(point.value, scale * getattr(point, measure)) for point in points if getattr(point, measure) is not None]
    values = sorted({value for value, _ in known})
    means = [np.mean([result for found, result in known if found == value]) for value in values]
    axes.plot(values, means, color=color, ls=ls, marker=marker, ms=5, lw=1.6)
    if len(known) > len(values):
        at, results = zip(*known, strict=True)
        axes.scatter(at, results, s=9, color=color, alpha=0.5, linewidths=0)
