"""Figures of how models behave on test images, and of their distance to the originals.

M models · S all models in a matrix, or recorded steps · T trajectories.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import Normal, Stroke
from matplotlib.ticker import MaxNLocator

from core.evaluation.kinds import GENERATED
from core.report.metric_words import ACCURACY_WORDS, MetricWords
from core.report.point_labels import label_points
from core.report.style import (
    FOREMOST,
    WEIGHT_COLORS,
    add_legend_below,
    make_figure,
    outline_marker,
    source_styles,
    styled,
    use_plain_log_ticks,
)

BACKGROUND = "#b5b5b5"  # the color of models whose source stands in the background
RIDGE_HEIGHT = 0.85  # the height of the tallest bar; rows are 1 apart


@styled
def draw_accuracy_over_iou(
    accuracy: Mapping[str, np.ndarray], iou: Mapping[str, np.ndarray], words: MetricWords = ACCURACY_WORDS
) -> Figure:
    """Draw each model as a dot and the mean of each source as a labeled marker (the paper's Figures 3 to 5).

    Only the originals and the generated models have dots of their source's color and shape. Better models stand higher,
    also if lower values are better.

    Args:
        accuracy: Values of the primary metric (M,), by source; accuracies are in [0, 1].
        iou: Maximum IoU with an original (M,), by source.
        words: The words for the primary metric.
    """
    drawn = make_figure(5.0)
    axes = drawn.subplots()
    styles = source_styles(accuracy)
    for source, accuracy_M in accuracy.items():
        color, marker = styles[source]
        if len(accuracy_M) > 1:
            foremost = source in FOREMOST
            axes.scatter(
                iou[source],
                words.scale * accuracy_M,
                s=9 if foremost else 6,
                color=color if foremost else BACKGROUND,
                marker=marker if foremost else "o",
                alpha=0.35,
                linewidths=0,
                rasterized=True,
                zorder=3 if foremost else 2,
            )
    means = {source: (float(iou[source].mean()), words.scale * float(accuracy[source].mean())) for source in accuracy}
    for source, (x, y) in means.items():
        color, marker = styles[source]
        axes.scatter(
            x,
            y,
            s=150 if marker == "*" else 65,
            color=color,
            marker=marker,
            **outline_marker(marker, 0.9),
            zorder=5,
            label=source,
        )
    percent = "%, " if words.metric.in_percent else ""
    axes.set(xlabel="maximum IoU with an original (← newer)", ylabel=f"test {words.name} ({percent}{words.direction})")
    axes.margins(0.06)
    turn_up(axes, words)
    label_points(drawn, axes, means)
    return drawn


def turn_up(axes: Axes, words: MetricWords) -> None:
    """Turn the vertical axis of a metric so that better values stand higher."""
    if not words.metric.higher_is_better:
        axes.invert_yaxis()


@styled
def draw_ridges(values: Mapping[str, np.ndarray], label: str, mark: tuple[float, str] | None = None) -> Figure:
    """Draw one histogram per source on a shared scale, one above the other. A single model is a line.

    Args:
        values: Values (M,) by source.
        label: The label of the horizontal axis.
        mark: A value to compare with, and its label.
    """
    drawn = make_figure(1.4 + 0.36 * len(values))
    axes = drawn.subplots()
    styles = source_styles(values)
    edges, scale = choose_bins(np.concatenate([*values.values(), *([[mark[0]]] if mark else [])]))
    upwards = list(values)[::-1]  # The first source stands at the top.
    for row, source in enumerate(upwards):
        values_M = values[source]
        color = styles[source][0]
        if len(values_M) > 1:
            counts = np.histogram(values_M, edges)[0]
            tops = row + RIDGE_HEIGHT * counts / counts.max()
            axes.stairs(tops, edges, baseline=row, fill=True, color=color, alpha=0.85, zorder=3)
        (median,) = axes.plot([np.median(values_M)] * 2, [row, row + RIDGE_HEIGHT], color="black", lw=1.4, zorder=4)
        # A white outline keeps the median visible on dark bars.
        median.set_path_effects([Stroke(linewidth=3.4, foreground="white"), Normal()])
        axes.axhline(row, color="#bbbbbb", lw=0.8)
    if mark:
        axes.axvline(mark[0], color="#b2182b", ls="--", lw=1.3, zorder=2, label=mark[1])
        add_legend_below(drawn, axes, columns=1)
    axes.set(xlabel=label, xscale=scale, ylim=(-0.1, len(values)), yticks=np.arange(len(values)) + 0.3)
    axes.set_yticklabels(upwards)
    if scale == "log":
        use_plain_log_ticks(axes.xaxis)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    return drawn


def choose_bins(pooled: np.ndarray, count: int = 64) -> tuple[np.ndarray, str]:
    """Return bin edges and the scale: "log" if all values are positive and span more than a factor of 30."""
    low, high = float(pooled.min()), float(pooled.max())
    if low > 0 and high / low > 30:
        return np.geomspace(low / 1.05, high * 1.05, count + 1), "log"
    margin = 0.02 * (high - low) or 0.01 * max(1.0, abs(high))  # Equal values need a margin, too.
    return np.linspace(low - margin, high + margin, count + 1), "linear"


@styled
def draw_iou_matrix(iou_SS: np.ndarray, sources: Sequence[str], sizes: Sequence[int]) -> Figure:
    """Draw the IoU of every pair of models, with one block per pair of sources.

    Args:
        iou_SS: IoU in [0, 1], with models in the order of `sources`.
        sources: The names of the blocks.
        sizes: The number of models of each source.
    """
    drawn = make_figure(5.0)
    axes = drawn.subplots()
    off_diagonal = iou_SS[~np.eye(len(iou_SS), dtype=bool)]
    shown = axes.imshow(
        iou_SS,
        cmap=WEIGHT_COLORS,
        vmin=float(np.quantile(off_diagonal, 0.005)),
        vmax=float(np.quantile(off_diagonal, 0.995)),
        aspect="auto",
        interpolation="nearest",
    )
    borders = np.cumsum([0, *sizes])
    for border in borders[1:-1] - 0.5:
        axes.axhline(border, color="white", lw=0.8)
        axes.axvline(border, color="white", lw=0.8)
    centers = (borders[1:] + borders[:-1]) / 2 - 0.5
    axes.set_xticks(centers, sources, rotation=90)
    axes.set_yticks(centers, sources)
    axes.tick_params(length=0)
    axes.grid(visible=False)
    drawn.colorbar(shown, ax=axes, label="IoU of errors on test (bright: alike)", fraction=0.05, extend="both")
    return drawn


@styled
def draw_accuracy_along_diffusion(
    timesteps_S: np.ndarray, accuracy_TS: np.ndarray, words: MetricWords = ACCURACY_WORDS
) -> Figure:
    """Draw one thin line per trajectory and their mean, from noise (left) to weights (right; the paper's Figure 5b).

    Args:
        timesteps_S: The recorded timesteps.
        accuracy_TS: The primary metric on validation; accuracies are in [0, 1].
        words: The words for the primary metric.
    """
    drawn = make_figure(4.0)
    axes = drawn.subplots()
    color = source_styles([GENERATED])[GENERATED][0]
    for number, accuracy_S in enumerate(accuracy_TS):
        axes.plot(
            timesteps_S, words.scale * accuracy_S, color=color, alpha=0.5, lw=1, label=None if number else "one model"
        )
    mean_S = words.scale * accuracy_TS.mean(axis=0)
    axes.plot(timesteps_S, mean_S, color="black", lw=2.2, marker="o", ms=5, label=f"mean of {len(accuracy_TS)} models")
    axes.invert_xaxis()
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    percent = " (%)" if words.metric.in_percent else ""
    axes.set(xlabel="timestep of the reverse diffusion (noise → weights)", ylabel=f"validation {words.name}{percent}")
    turn_up(axes, words)
    add_legend_below(drawn, axes)
    return drawn
