"""Figures of the weights themselves.

M models · D numbers in one vector · E epochs · P points.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import gaussian_kde
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from core.report.style import figure, legend_below, source_styles, styled

MOST_TENSORS, MOST_ROWS = 6, 48  # of the heat map through training: what one can still tell apart


@styled
def over_nearest(pairs: Sequence[tuple[str, np.ndarray, str, np.ndarray]]) -> Figure:
    """Draw rows of weights in pairs: a model, and the original nearest to it.

    Args:
        pairs: (name, weights, name of the original, its weights), weights in units of the originals' spread.
    """
    drawn = figure(1.3 + 0.62 * len(pairs))
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
        np.stack(rows[:-1]), cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest"
    )
    axes.set_yticks(ticks, [names[row] for row in ticks], fontsize=9)
    axes.set(xlabel=f"{len(gap)} of the weights, in their order")
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    drawn.colorbar(shown, ax=axes, label="σ of the originals\nfrom their mean", extend="both", aspect=12)
    return drawn


@styled
def weight_densities(samples: Mapping[str, np.ndarray], coordinates: Sequence[int]) -> Figure:
    """Draw the density of single weights over the models of each source.

    Args:
        samples: (M, len(coordinates)) by source.
        coordinates: which weights these are.
    """
    rows = (len(coordinates) + 1) // 2
    drawn = figure(1.1 + 1.7 * rows)
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
                lw=1.8,
                ls="--" if source == "gaussian" else "-",
                label=source,
            )
        axes.set_title(f"weight {coordinate}", fontsize=10)
        axes.set_ylim(bottom=0)
        axes.tick_params(labelleft=False, left=False, labelsize=9)
        axes.locator_params(axis="x", nbins=4)
    for axes in list(grid.flat)[len(coordinates) :]:
        axes.set_visible(False)
    for axes in grid[-1]:
        axes.set_xlabel("value of the weight")
    drawn.supylabel("density", fontsize=11)
    legend_below(drawn, grid[0, 0])
    return drawn


@styled
def positions(points: Mapping[str, np.ndarray], x_label: str, y_label: str, *, ticks: bool) -> Figure:
    """Draw the points of every source in a plane.

    Args:
        points: (P, 2) by source.
        x_label: of the horizontal axis.
        y_label: of the vertical axis.
        ticks: whether the numbers on the axes mean something.
    """
    drawn = figure(5.4)
    axes = drawn.subplots()
    styles = source_styles(points)
    for source, points_P2 in points.items():
        color, marker = styles[source]
        alone, foremost = len(points_P2) == 1, source in ("original", "p_diff")
        look = (
            {"s": 170, "alpha": 1, "zorder": 5} if alone else {"s": 34, "alpha": 0.75, "zorder": 4 if foremost else 3}
        )
        axes.scatter(
            *points_P2.T,
            **look,
            color=color,
            marker=marker,
            linewidths=0.5,
            edgecolors="white",
            label=source,
            rasterized=True,
        )
    axes.set(xlabel=x_label, ylabel=y_label)
    if not ticks:
        axes.tick_params(labelbottom=False, labelleft=False, length=0)
        axes.grid(visible=False)
    legend_below(drawn, axes)
    return drawn


def principal_components(vectors_PD: np.ndarray, seed: int, most: int = 50) -> tuple[np.ndarray, np.ndarray]:
    """Return coordinates (P, C) and the share of the variance per component (C,), with C ≤ `most`."""
    count = min(most, *vectors_PD.shape)
    pca = PCA(count, svd_solver="randomized", random_state=seed)
    return pca.fit_transform(vectors_PD.astype(np.float64)), pca.explained_variance_ratio_


def neighbor_map(components_PC: np.ndarray, seed: int) -> np.ndarray:
    """Place a few hundred points by t-SNE, (P, 2)."""
    perplexity = min(30.0, (len(components_PC) - 1) / 3)
    return TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(components_PC)


@styled
def training_heat_map(history_ED: np.ndarray, names: Sequence[str], sizes: Sequence[int]) -> Figure:
    """Draw the subset through classifier training (Figure 1).

    Columns are epochs and rows weights, in blocks of one tensor. The first column is the start, before any training.

    Each tensor is shown in its own units (scales lie around 1, biases around 0) and ordered by its last values, so that
    a pattern can be seen at all.
    """
    drawn = figure(5.2)
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
        cmap="RdBu_r",
        vmin=-3,
        vmax=3,
        aspect="auto",
        interpolation="nearest",
        extent=(-0.5, len(history_ED) - 0.5, len(weights), 0),
    )
    borders = np.cumsum([0, *(len(block) for block in blocks)])
    for border in borders[1:-1]:
        axes.axhline(border, color="black", lw=1)
    axes.set_yticks((borders[1:] + borders[:-1]) / 2, names[-MOST_TENSORS:], fontsize=9)
    axes.locator_params(axis="x", integer=True)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False)
    axes.set(xlabel="epochs of classifier training that were done")
    drawn.colorbar(shown, ax=axes, label="σ of the tensor, from its mean", extend="both")
    return drawn
