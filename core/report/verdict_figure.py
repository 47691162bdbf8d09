"""The figure of the verdict: generated models minus each baseline, in accuracy and in similarity to the originals."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from core.evaluation.verdict import Comparison, Decision, Difference, Doubt
from core.report.metric_words import ACCURACY_WORDS, MetricWords
from core.report.style import make_figure, styled

LOOKS = {  # decision or doubt -> (color, marker, color of its inside, label)
    Decision.BETTER: ("#0072b2", "o", "#0072b2", "p_diff better"),
    Decision.UNDECIDED: ("#555555", "o", "white", "no measurable difference"),
    Decision.WORSE: ("#d55e00", "X", "#d55e00", "p_diff worse"),
    Doubt.ACCURACY: ("#555555", "D", "#bbbbbb", "explained by accuracy"),
    Doubt.UNCERTAIN: ("#555555", "D", "white", "accuracy too uncertain to tell"),
    Doubt.COPIES: ("#555555", "s", "white", "copies do not count as newer"),
    Doubt.CONSISTENCY: ("#555555", "s", "#bbbbbb", "relative κ does not confirm it"),
}
GOOD_SIDE = "#e3eef6"


@styled
def draw_differences(comparisons: Sequence[Comparison], words: MetricWords = ACCURACY_WORDS) -> Figure:
    """Draw p_diff minus each baseline with its interval, and shade the side on which p_diff is better.

    Args:
        comparisons: One comparison per row, from the top.
        words: The words for the primary metric.
    """
    has_iou = any(comparison.max_iou is not None for comparison in comparisons)
    drawn = make_figure(1.6 + 0.27 * len(comparisons))
    drawn.set_layout_engine("constrained", wspace=0.06)
    panels = drawn.subplots(1, 2 if has_iou else 1, sharey=True, squeeze=False)[0]
    rows = range(len(comparisons) - 1, -1, -1)  # The first comparison stands at the top.
    for row, comparison in zip(rows, comparisons, strict=True):
        draw_difference(panels[0], row, comparison.accuracy, comparison.accuracy.decision, scale=words.scale)
        if comparison.max_iou is not None:
            draw_difference(panels[1], row, comparison.max_iou, comparison.doubt or comparison.max_iou.decision)
    unit = f" ({words.short_unit})" if words.short_unit else ""
    higher = words.metric.higher_is_better
    hint = f"{words.better} →" if higher else f"← {words.better}"
    finish_panel(panels[0], f"{words.name} difference{unit}", hint, good_above_0=higher)
    if has_iou:
        finish_panel(panels[1], "max IoU difference", "← newer", good_above_0=False)
    panels[0].set_yticks(list(rows), [comparison.baseline.source for comparison in comparisons])
    panels[0].set_ylim(-0.6, len(comparisons) - 0.4)
    doubts = {row.doubt for row in comparisons if row.doubt}
    handles = [
        Line2D([], [], color=color, marker=marker, mfc=inside, ms=7, lw=1.6, label=words.adapt(label))
        for look, (color, marker, inside, label) in LOOKS.items()
        if isinstance(look, Decision) or look in doubts
    ]
    drawn.legend(handles=handles, loc="outside lower center", ncols=2 if doubts else 3, columnspacing=0.9)
    return drawn


def draw_difference(axes: Axes, row: int, difference: Difference, look: Decision | Doubt, scale: float = 1) -> None:
    """Draw one difference as a marker on its interval, in one of the `LOOKS`."""
    color, marker, inside, _ = LOOKS[look]
    if difference.interval is not None:
        axes.plot([scale * end for end in difference.interval], [row, row], color=color, lw=1.8, zorder=3)
    axes.plot([scale * difference.value], [row], color=color, marker=marker, mfc=inside, ms=7, zorder=4)


def finish_panel(axes: Axes, label: str, hint: str, *, good_above_0: bool) -> None:
    """Label one panel, mark 0, and shade the side on which p_diff is better."""
    low, high = axes.get_xlim()
    low, high = min(low, -0.05 * (high - low)), max(high, 0.05 * (high - low))
    axes.set_xlim(low, high)
    good = (0, high) if good_above_0 else (low, 0)
    axes.axvspan(*good, color=GOOD_SIDE, lw=0, zorder=0)
    axes.axvline(0, color="black", lw=1, zorder=2)
    axes.annotate(
        hint,
        (sum(good) / 2, 1),
        xycoords=axes.get_xaxis_transform(),
        xytext=(0, 4),
        textcoords="offset points",
        ha="center",
        fontsize=10,
    )
    axes.set_xlabel(label)
    axes.locator_params(axis="x", nbins=5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
