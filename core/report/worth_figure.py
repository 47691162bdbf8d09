"""The figures of models that vote together: how each measure changes with the number of voting models."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from core.evaluation.groups import Group
from core.evaluation.kinds import GENERATED, ORIGINAL
from core.report.style import add_legend_below, make_figure, source_styles, styled, use_plain_log_ticks
from core.report.worth_table import find_largest_votes

WorthRows = Sequence[Mapping[str, Any]]  # rows of metrics["worth"]
LINE_STYLES = {Group.ORIGINAL: "-", Group.GENERATED: "--", Group.FREE: ":", Group.TRAINED: "-."}
DODGE = 1.035  # Lines are moved apart by this factor, so that their intervals do not cover each other.


class Measure(NamedTuple):
    """A measure of a vote."""

    label: str
    key: str
    scale: float = 1


CURVES = (
    Measure("test accuracy\n(%, higher is better)", "accuracy", 100),
    Measure("log-likelihood\n(nats, higher is better)", "loss", -1),
)
MULTIPLES = (
    Measure("Brier score (lower is better)", "brier"),
    Measure("ECE in % (lower is better)", "ece", 100),
    Measure("AURC (lower is better)", "aurc"),
    Measure("disagreement in %", "disagreement", 100),
)


def choose_main_sources(worth: WorthRows, groups: Mapping[str, Group]) -> list[str]:
    """Return the sources that the figures show: the originals, p_diff, and the best free and the best trained source.

    A source of a single model has no curve, so only the table shows it.
    The best source of a group is the one whose vote of all models has the lowest loss on test. This choice favors the
    baselines, because it uses the test images.
    """
    votes = {source: row for source, row in find_largest_votes(worth).items() if row["n_models"] > 1}
    chosen = [source for source in (ORIGINAL, GENERATED) if source in votes]
    for group in (Group.FREE, Group.TRAINED):
        members = [source for source, found in groups.items() if found is group and source in votes]
        if members:
            chosen.append(min(members, key=lambda source: votes[source].get("loss", math.inf)))
    return chosen


def select(worth: WorthRows, source: str, key: str) -> list[tuple[int, float, list[float] | None]]:
    """Return (number of models, value, interval) of one measure of one source, ascending and without missing values."""
    rows = sorted((row for row in worth if row["source"] == source), key=lambda row: row["n_models"])
    return [(row["n_models"], row[key], row.get(f"{key}_interval")) for row in rows if row.get(key) is not None]


@styled
def draw_worth(worth: WorthRows, groups: Mapping[str, Group]) -> Figure:
    """Draw accuracy and log-likelihood over the number of voting models, each with its 95% interval.

    Args:
        worth: Rows of metrics["worth"].
        groups: The group of each source.
    """
    drawn = make_figure(6.2)
    panels = drawn.subplots(len(CURVES), sharex=True)
    shown = {source: groups[source] for source in choose_main_sources(worth, groups)}
    for axes, measure in zip(panels, CURVES, strict=True):
        draw_lines(axes, worth, shown, measure)
        axes.set_ylabel(measure.label)
    panels[-1].set_xlabel("number of models that vote")
    drawn.align_ylabels()
    add_legend_below(drawn, panels[0], columns=2)
    return drawn


@styled
def draw_worth_measures(worth: WorthRows, groups: Mapping[str, Group]) -> Figure:
    """Draw the other measures of a vote over the number of voting models, one panel per measure.

    Args:
        worth: Rows of metrics["worth"].
        groups: The group of each source.
    """
    flat = [{**row, **{f"auroc {name}": value for name, value in (row.get("auroc") or {}).items()}} for row in worth]
    ood = dict.fromkeys(name for row in worth for name in row.get("auroc") or {})
    found = [*MULTIPLES, *(Measure(f"AUROC {name} (higher is better)", f"auroc {name}") for name in ood)]
    measures = [measure for measure in found if any(row.get(measure.key) is not None for row in flat)]
    lines = (len(measures) + 1) // 2
    drawn = make_figure(1.0 + 2.1 * lines)
    grid = drawn.subplots(lines, 2, squeeze=False)
    shown = {source: groups[source] for source in choose_main_sources(worth, groups)}
    for axes, measure in zip(grid.flat, measures, strict=False):
        draw_lines(axes, flat, shown, measure)
        axes.set_title(measure.label, fontsize=9)
        axes.set_xlabel("number of models", fontsize=9)
        axes.tick_params(labelsize=9)
        axes.locator_params(axis="y", nbins=5)
    for axes in list(grid.flat)[len(measures) :]:
        axes.remove()
    add_legend_below(drawn, grid[0, 0], columns=2)
    return drawn


def draw_lines(axes: Axes, worth: WorthRows, shown: Mapping[str, Group], measure: Measure) -> None:
    """Draw one line per source over a logarithmic number of models, with intervals where there are any.

    Args:
        axes: The panel.
        worth: Rows of metrics["worth"].
        shown: The group of each source that has a line.
        measure: The measure of the panel.
    """
    styles = source_styles(list(shown))
    for rank, (source, group) in enumerate(shown.items()):
        points = select(worth, source, measure.key)
        color, marker = styles[source]
        at = [count * DODGE ** (rank - (len(shown) - 1) / 2) for count, _, _ in points]
        axes.plot(
            at,
            [measure.scale * value for _, value, _ in points],
            color=color,
            marker=marker,
            ms=6,
            lw=1.8,
            ls=LINE_STYLES[group],
            label=source,
            zorder=3,
        )
        for x, (_, _, interval) in zip(at, points, strict=True):
            if interval is not None:
                axes.plot([x, x], [measure.scale * end for end in interval], color=color, lw=1.2, alpha=0.7, zorder=2)
    axes.set_xscale("log")
    use_plain_log_ticks(axes.xaxis)
