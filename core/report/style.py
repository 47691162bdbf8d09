"""How every figure looks: one color and marker per source, readable on a phone, safe for color-blind readers."""

import functools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import ParamSpec

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from core.runtime.artifacts import replacing

Drawing = ParamSpec("Drawing")

SOURCE_STYLES: dict[str, tuple[str, str]] = {  # source -> (color, marker); Okabe and Ito's palette, extended
    "original": ("#3b3b3b", "o"),
    "ensemble": ("#000000", "*"),
    "p_diff": ("#d55e00", "D"),
    "reconstructed": ("#cc79a7", "s"),
    "interpolated": ("#e69f00", "^"),
    "gaussian": ("#0072b2", "P"),
    "gaussian_full": ("#56b4e9", "X"),
    "finetuned": ("#7f3c8d", "v"),
}
FAMILIES = {"average_": ("#009e73", "p"), "noised_": ("#8a6d3b", ">")}  # names with a number; a larger one is lighter
OTHERS = (("#5f6b00", "<"), ("#b2182b", "h"), ("#35978f", "H"), ("#6a51a3", "d"))
WIDTH = 5.8  # inches: small, so that text is still readable when the figure fills a phone's screen
DPI = 180
RC = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same figure on every machine
    "font.size": 11,
    "axes.labelsize": 11,
    "axes.titlesize": 11,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "legend.fontsize": 10,
    "legend.frameon": False,
    "legend.handletextpad": 0.3,
    "legend.columnspacing": 1.2,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "figure.facecolor": "white",
    "svg.hashsalt": "p-diff",  # the same file from the same numbers
}


def styled(draw: Callable[Drawing, Figure]) -> Callable[Drawing, Figure]:
    """Draw under our settings and leave matplotlib's own as they were."""

    @functools.wraps(draw)
    def drawn(*args: Drawing.args, **kwargs: Drawing.kwargs) -> Figure:
        with matplotlib.rc_context(RC):
            return draw(*args, **kwargs)

    return drawn


def figure(height: float = 4.2) -> Figure:
    """An empty figure whose parts make room for each other."""
    return Figure(figsize=(WIDTH, height), layout="constrained")


def source_styles(sources: Iterable[str]) -> dict[str, tuple[str, str]]:
    """(color, marker) of each source; the same source looks the same in every figure that shows these sources."""
    sources = list(sources)
    styles = {source: SOURCE_STYLES[source] for source in sources if source in SOURCE_STYLES}
    for prefix, (color, marker) in FAMILIES.items():
        family = sorted((source for source in sources if source.startswith(prefix)), key=family_order)
        styles |= {
            source: (lighter(color, 0.55 * rank / max(1, len(family) - 1)), marker)
            for rank, source in enumerate(family)
        }
    unknown = [source for source in sources if source not in styles]
    return styles | {source: OTHERS[rank % len(OTHERS)] for rank, source in enumerate(unknown)}


def family_order(source: str) -> tuple[float, str]:
    """noised_0.05 before noised_0.15."""
    try:
        return float(source.rpartition("_")[2]), source
    except ValueError:
        return float("inf"), source


def lighter(color: str, share: float) -> str:
    """The color mixed with this share of white."""
    return to_hex([channel + (1 - channel) * share for channel in to_rgb(color)])


def plain_log_ticks(axis: Axis) -> None:
    """0.1, 0.2, 0.5 on a logarithmic axis instead of powers of ten, of which a narrow range shows one or two."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def legend_below(drawn: Figure, axes: Axes, columns: int = 3) -> None:
    """One legend for the figure, beneath the data and never over it."""
    handles, labels = axes.get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside lower center", ncols=columns)


def save(drawn: Figure, folder: Path, name: str) -> Mapping[str, Path]:
    """Write the figure as PNG and SVG, without dates, and return the two files by kind."""
    files = {kind: folder / f"{name}.{kind}" for kind in ("png", "svg")}
    with matplotlib.rc_context(RC):
        for kind, path in files.items():
            with replacing(path) as temporary:
                drawn.savefig(temporary, format=kind, dpi=DPI, metadata={"Date": None} if kind == "svg" else None)
            drawn.set_layout_engine("none")  # laid out once, for both
    return files
