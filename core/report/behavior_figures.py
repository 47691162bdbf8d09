"""Figures of the behavior of models and of their distance to the originals.

M models · S all models that a matrix shows.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from core.evaluation.kinds import GENERATED
from core.report.style import figure, legend_below, plain_log_ticks, source_styles, styled


@styled
def accuracy_vs_iou(accuracy: Mapping[str, np.ndarray], iou: Mapping[str, np.ndarray]) -> Figure:
    """Draw each model as a dot and each source's mean as a large marker (the paper's Figures 3 to 5).

    Args:
        accuracy: (M,) in [0, 1], by source.
        iou: maximum IoU with an original (M,), by source.
    """
    drawn = figure(5.4)
    axes = drawn.subplots()
    styles = source_styles(accuracy)
    for source, accuracy_M in accuracy.items():
        color, marker = styles[source]
        if len(accuracy_M) > 1:
            axes.scatter(iou[source], 100 * accuracy_M, s=9, color=color, alpha=0.35, linewidths=0, rasterized=True)
    for source, accuracy_M in accuracy.items():
        color, marker = styles[source]
        size = 150 if marker == "*" else 65
        axes.scatter(
            iou[source].mean(),
            100 * accuracy_M.mean(),
            s=size,
            color=color,
            marker=marker,
            edgecolors="white",
            linewidths=0.9,
            zorder=4,
            label=source,
        )
    axes.set(xlabel="maximum IoU with an original (lower: newer)", ylabel="test accuracy (%)")
    axes.margins(0.06)
    legend_below(drawn, axes)
    return drawn


@styled
def ridges(values: Mapping[str, np.ndarray], label: str, mark: tuple[float, str] | None = None) -> Figure:
    """Draw one histogram per source on a shared scale, one above the other; a lone model is a line.

    Args:
        values: (M,) by source.
        label: of the horizontal axis.
        mark: a value that all are compared with, and what it is.
    """
    drawn = figure(1.4 + 0.36 * len(values))
    axes = drawn.subplots()
    styles = source_styles(values)
    edges, scale = bins(np.concatenate([*values.values(), *([[mark[0]]] if mark else [])]))
    upwards = list(values)[::-1]  # the first source stands at the top
    for row, source in enumerate(upwards):
        values_M = values[source]
        color = styles[source][0]
        if len(values_M) > 1:
            counts = np.histogram(values_M, edges)[0]
            axes.stairs(
                row + 0.85 * counts / counts.max(), edges, baseline=row, fill=True, color=color, alpha=0.85, zorder=3
            )
        axes.plot(
            [np.median(values_M)] * 2,
            [row, row + 0.85],
            color=color if len(values_M) == 1 else "black",
            lw=2.2 if len(values_M) == 1 else 1,
            zorder=4,
        )
        axes.axhline(row, color="#bbbbbb", lw=0.8)
    if mark:
        axes.axvline(mark[0], color="#b2182b", ls="--", lw=1.3, zorder=2, label=mark[1])
        legend_below(drawn, axes, columns=1)
    axes.set(xlabel=label, xscale=scale, ylim=(-0.1, len(values)), yticks=np.arange(len(values)) + 0.3)
    axes.set_yticklabels(upwards)
    if scale == "log":
        plain_log_ticks(axes.xaxis)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    return drawn


def bins(pooled: np.ndarray, count: int = 64) -> tuple[np.ndarray, str]:
    """Return edges and the name of the scale: "log" where the values span more than a factor of 30 and none is 0."""
    low, high = float(pooled.min()), float(pooled.max())
    if low > 0 and high / low > 30:
        return np.geomspace(low / 1.05, high * 1.05, count + 1), "log"
    margin = 0.02 * (high - low) or 0.01 * max(1.0, abs(high))  # all equal: still a scale
    return np.linspace(low - margin, high + margin, count + 1), "linear"


@styled
def iou_heat_map(iou_SS: np.ndarray, sources: Sequence[str], sizes: Sequence[int]) -> Figure:
    """Draw the IoU of every pair of models, in blocks of one source each.

    Args:
        iou_SS: in [0, 1], models in the order of `sources`.
        sources: names of the blocks.
        sizes: how many models each source has.
    """
    drawn = figure(5.0)
    axes = drawn.subplots()
    off_diagonal = iou_SS[~np.eye(len(iou_SS), dtype=bool)]
    shown = axes.imshow(
        iou_SS,
        cmap="cividis",
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
    drawn.colorbar(shown, ax=axes, label="IoU of wrong test images", fraction=0.05, extend="both")
    return drawn


@styled
def accuracy_along_diffusion(timesteps_S: np.ndarray, accuracy_TS: np.ndarray) -> Figure:
    """Draw one thin line per trajectory and their mean, from noise (left) to weights (right; the paper's Figure 5b).

    Args:
        timesteps_S: of the recorded steps.
        accuracy_TS: on validation, in [0, 1].
    """
    drawn = figure(4.0)
    axes = drawn.subplots()
    color = source_styles([GENERATED])[GENERATED][0]
    for number, accuracy_S in enumerate(accuracy_TS):
        axes.plot(timesteps_S, 100 * accuracy_S, color=color, alpha=0.35, lw=1, label=None if number else "one model")
    axes.plot(timesteps_S, 100 * accuracy_TS.mean(axis=0), color="black", lw=2.2, label=f"mean of {len(accuracy_TS)}")
    axes.invert_xaxis()
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set(xlabel="timestep of the reverse diffusion (noise → weights)", ylabel="validation accuracy (%)")
    legend_below(drawn, axes)
    return drawn
