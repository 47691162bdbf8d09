"""Figures of the weights themselves.

M models · D numbers in one vector · E epochs · P points · C components.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import gaussian_kde
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from core.evaluation.kinds import GENERATED, ORIGINAL
from core.report.style import (
    FOREMOST,
    WEIGHT_COLORS,
    add_legend_below,
    make_figure,
    outline_marker,
    source_styles,
    styled,
)

MOST_TENSORS, MOST_ROWS = 6, 48  # More tensors, or more rows per tensor, would blur the heat map of training.
LINE_STYLES = {ORIGINAL: "-", GENERATED: "--"}  # the line styles of densities; all other sources are dotted


@styled
def draw_nearest_pairs(pairs: Sequence[tuple[str, np.ndarray, str, np.ndarray]]) -> Figure:
    """Draw pairs of rows of weights: a model above the original nearest to it.

    Args:
        pairs: Tuples (name, weights, name of the original, its weights). Each weight is given as its distance from the
            mean of the originals, in their standard deviations.
    """
    drawn = make_figure(1.3 + 0.62 * len(pairs))
    axes = drawn.subplots()
    gap = np.full_like(pairs[0][1], np.nan)
    rows: list[np.ndarray] = []
    names: list[str] = []
    for name, weights, nearest_name, nearest in pairs:
        rows += [weights, nearest, gap]
        names += [name, nearest_name, ""]
    ticks = [row for row, name in enumerate(names) if name]
    limit = float(np.nanquantile(np.abs(np.stack(rows[:-1])), 0.98)) or 1.0
    shown = axes.imshow(
        np.stack(rows[:-1]), cmap=WEIGHT_COLORS, vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest"
    )
    axes.set_yticks(ticks, [names[row] for row in ticks], fontsize=9)
    axes.set(xlabel=f"{len(gap)} random weights")
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    drawn.colorbar(shown, ax=axes, label="standard deviations from\nthe originals' mean", extend="both", aspect=12)
    return drawn


@styled
def draw_densities(samples: Mapping[str, np.ndarray], coordinates: Sequence[int]) -> Figure:
    """Draw how single weights are distributed over the models of each source, one panel per weight.

    Args:
        samples: Values of the weights (M, len(coordinates)), by source.
        coordinates: The positions of these weights in the vector.
    """
    rows = (len(coordinates) + 1) // 2
    drawn = make_figure(1.1 + 1.7 * rows)
    grid = drawn.subplots(rows, 2, squeeze=False)
    styles = source_styles(samples)
    for index, (axes, coordinate) in enumerate(zip(grid.flat, coordinates, strict=False)):
        pooled = np.concatenate([values[:, index] for values in samples.values()])
        margin = 0.15 * np.ptp(pooled)
        at = np.linspace(pooled.min() - margin, pooled.max() + margin, 160)
        for source, values in samples.items():
            axes.plot(
                at,
                gaussian_kde(values[:, index])(at),
                color=styles[source][0],
                lw=2,
                ls=LINE_STYLES.get(source, ":"),
                label=source,
            )
        axes.set_title(f"weight number {coordinate}", fontsize=10)
        axes.set_ylim(bottom=0)
        axes.tick_params(labelleft=False, left=False, labelsize=9)
        axes.locator_params(axis="x", nbins=4)
    for axes in list(grid.flat)[len(coordinates) :]:
        axes.set_visible(False)
    for axes in grid[-1]:
        axes.set_xlabel("value of the weight")
    drawn.supylabel("density", fontsize=11)
    add_legend_below(drawn, grid[0, 0])
    return drawn


@styled
def draw_positions(points: Mapping[str, np.ndarray], x_label: str, y_label: str, *, ticks: bool) -> Figure:
    """Draw the points of every source in a plane.

    Args:
        points: Points (P, 2) by source.
        x_label: The label of the horizontal axis.
        y_label: The label of the vertical axis.
        ticks: Whether the axes show numbers.
    """
    drawn = make_figure(5.4)
    axes = drawn.subplots()
    styles = source_styles(points)
    for source, points_P2 in points.items():
        color, marker = styles[source]
        alone, foremost = len(points_P2) == 1, source in FOREMOST
        look = (
            {"s": 170, "alpha": 1, "zorder": 5} if alone else {"s": 34, "alpha": 0.75, "zorder": 4 if foremost else 3}
        )
        axes.scatter(
            points_P2[:, 0],
            points_P2[:, 1],
            **look,
            color=color,
            marker=marker,
            **outline_marker(marker, 0.5),
            label=source,
            rasterized=True,
        )
    axes.set(xlabel=x_label, ylabel=y_label)
    if not ticks:
        axes.tick_params(labelbottom=False, labelleft=False, length=0)
        axes.grid(visible=False)
    add_legend_below(drawn, axes)
    return drawn


def principal_components(vectors_PD: np.ndarray, seed: int, most: int = 50) -> tuple[np.ndarray, np.ndarray]:
    """Return coordinates (P, C) and each component's share of the variance (C,), with C ≤ `most`."""
    count = min(most, *vectors_PD.shape)
    pca = PCA(count, svd_solver="randomized", random_state=seed)
    return pca.fit_transform(vectors_PD.astype(np.float64)), pca.explained_variance_ratio_


def map_neighbors(components_PC: np.ndarray, seed: int) -> np.ndarray:
    """Return the positions of a few hundred points in a t-SNE map (P, 2)."""
    perplexity = min(30.0, (len(components_PC) - 1) / 3)
    return TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(components_PC)


@styled
def draw_training_history(history_ED: np.ndarray, names: Sequence[str], sizes: Sequence[int]) -> Figure:
    """Draw the generated weights during classifier training (the paper's Figure 1).

    Columns are epochs, the first one before any training. Rows are weights, in one block per tensor. Each tensor is
    standardized, because scales lie around 1 and biases around 0, and its rows are sorted by their final values.

    Args:
        history_ED: Weights at the start and after each epoch.
        names: The names of the tensors.
        sizes: The number of weights of each tensor.
    """
    drawn = make_figure(5.2)
    axes = drawn.subplots()
    blocks = []
    ends = np.cumsum(sizes)
    for start, size in list(zip(ends - sizes, sizes, strict=True))[-MOST_TENSORS:]:
        tensor_ED = history_ED[:, start : start + size].astype(np.float64)
        ordered = np.argsort(tensor_ED[-1], kind="stable")
        kept = ordered[np.unique(np.linspace(0, size - 1, min(size, MOST_ROWS)).round().astype(int))]
        blocks.append(((tensor_ED[:, kept] - tensor_ED.mean()) / (tensor_ED.std() or 1.0)).T)
    weights = np.concatenate(blocks)
    shown = axes.imshow(
        weights,
        cmap=WEIGHT_COLORS,
        vmin=-3,
        vmax=3,
        aspect="auto",
        interpolation="nearest",
        extent=(-0.5, len(history_ED) - 0.5, len(weights), 0),
    )
    borders = np.cumsum([0, *(len(block) for block in blocks)])
    for border in borders[1:-1]:
        axes.axhline(border, color="white", lw=2)
    axes.set_yticks((borders[1:] + borders[:-1]) / 2, names[-MOST_TENSORS:], fontsize=9)
    axes.locator_params(axis="x", integer=True)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False)
    axes.set(xlabel="epochs of classifier training")
    drawn.colorbar(shown, ax=axes, label="standard deviations from the tensor's mean", extend="both")
    return drawn
