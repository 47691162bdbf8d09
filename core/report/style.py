"""The look of every figure: one color and marker per source, readable on a phone, safe for color-blind readers."""

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ParamSpec

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from core.evaluation.kinds import (
    AVERAGE,
    ENSEMBLE,
    FINETUNED,
    GENERATED,
    NOISED,
    ORIGINAL,
    RECONSTRUCTED,
    family_and_number,
    family_of,
)
from core.runtime.artifacts import replacing

Drawing = ParamSpec("Drawing")

FAMILY_STYLES: dict[str, tuple[str, str]] = {  # family -> (color, marker); Okabe and Ito's palette, extended
    ORIGINAL: ("#3b3b3b", "o"),
    ENSEMBLE: ("#000000", "*"),
    GENERATED: ("#d55e00", "D"),
    RECONSTRUCTED: ("#cc79a7", "s"),
    "interpolated": ("#e69f00", "^"),
    "gaussian": ("#0072b2", "P"),
    "gaussian_full": ("#56b4e9", "X"),
    FINETUNED: ("#7f3c8d", "v"),
    AVERAGE: ("#009e73", "p"),
    NOISED: ("#8a6d3b", ">"),
}
OTHERS = (("#5f6b00", "<"), ("#b2182b", "h"), ("#35978f", "H"), ("#6a51a3", "d"))
WIDTH = 5.8  # inches: small, so that text is still readable when the figure fills a phone's screen
DPI = 180
RC: dict[Any, Any] = {
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
    """Return an empty figure whose parts make room for each other."""
    return Figure(figsize=(WIDTH, height), layout="constrained")


def source_styles(sources: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return (color, marker) of each source.

    The same source looks the same in every figure that shows these sources. In a family of several, a larger number is
    lighter.
    """
    families: dict[str, list[str]] = {}
    unknown: list[str] = []
    for source in sources:
        family = family_of(source)
        if family in FAMILY_STYLES:
            families.setdefault(family, []).append(source)
        else:
            unknown.append(source)
    styles = {source: OTHERS[rank % len(OTHERS)] for rank, source in enumerate(unknown)}
    for family, members in families.items():
        color, marker = FAMILY_STYLES[family]
        for rank, source in enumerate(sorted(members, key=number_of)):
            styles[source] = lighter(color, 0.55 * rank / max(1, len(members) - 1)), marker
    return styles


def number_of(source: str) -> float:
    """Return the number that ends a source's name, infinite where there is none."""
    number = family_and_number(source)[1]
    return math.inf if number is None else number


def lighter(color: str, share: float) -> str:
    """Mix the color with this share of white."""
    red, green, blue = (channel + (1 - channel) * share for channel in to_rgb(color))
    return to_hex((red, green, blue))


def plain_log_ticks(axis: Axis) -> None:
    """Label a logarithmic axis 0.1, 0.2, 0.5 instead of by powers of ten, of which a narrow range shows one or two."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def legend_below(drawn: Figure, axes: Axes, columns: int = 3) -> None:
    """Draw one legend for the figure, beneath the data and never over it."""
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
