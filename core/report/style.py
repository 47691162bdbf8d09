"""The look of every figure: one color and marker per source, legible on a phone, in grayscale and when color-blind."""

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeAlias

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from core.evaluation.kinds import (
    AVERAGE,
    CONTINUED,
    DEEP_ENSEMBLE,
    EMA,
    ENSEMBLE,
    FINETUNED,
    GENERATED,
    HELD_OUT,
    LAPLACE,
    LAWA,
    NOISED,
    ORIGINAL,
    RECONSTRUCTED,
    SWAG,
    get_family,
    split_number,
)
from core.runtime.artifacts import replace_atomically

Drawing = ParamSpec("Drawing")
# A marker is a name of matplotlib, or (corners, 1 for a star, rotation in degrees).
Marker: TypeAlias = str | tuple[int, Literal[0, 1, 2], int]

FAMILY_STYLES: dict[str, tuple[str, Marker]] = {  # family -> (color, marker), from an extended palette of Okabe and Ito
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
    SWAG: ("#2a9d9d", "8"),
    EMA: ("#5b6ee1", (3, 0, 30)),
    LAWA: ("#98a832", (5, 0, 36)),
    CONTINUED: ("#b5488a", (4, 0, 20)),
    HELD_OUT: ("#94366e", (5, 1, 36)),
    LAPLACE: ("#c03a2b", (7, 1, 0)),
    DEEP_ENSEMBLE: ("#4a2c6b", (8, 1, 0)),
}
FURTHER_MARKERS: tuple[Marker, ...] = ((4, 1, 0), (3, 1, 0), (6, 1, 0))  # the markers of further members of families
UNKNOWN_STYLES: tuple[tuple[str, Marker], ...] = (
    ("#5f6b00", "<"),
    ("#b2182b", "h"),
    ("#35978f", "H"),
    ("#6a51a3", "d"),
)
FOREMOST = (ORIGINAL, GENERATED)  # the sources that a figure of many sources puts in front
WEIGHT_COLORS = "cividis"  # its brightness rises steadily, so it can be read in grayscale and when color-blind
WIDTH = 5.8  # inches; narrow figures keep their text legible when scaled to a phone's screen
DPI = 180
RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # Matplotlib brings this font, so every machine draws the same figure.
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
    "svg.hashsalt": "p-diff",  # This fixes the ids in an SVG file, so that a figure drawn again gives the same file.
}


def styled(draw: Callable[Drawing, Figure]) -> Callable[Drawing, Figure]:
    """Decorate a drawing function to use the settings above and leave matplotlib's own settings unchanged."""

    @functools.wraps(draw)
    def draw_styled(*args: Drawing.args, **kwargs: Drawing.kwargs) -> Figure:
        with matplotlib.rc_context(RC):
            return draw(*args, **kwargs)

    return draw_styled


def make_figure(height: float = 4.2) -> Figure:
    """Return an empty figure of `height` inches that arranges its parts without overlaps."""
    return Figure(figsize=(WIDTH, height), layout="constrained")


def source_styles(sources: Iterable[str]) -> dict[str, tuple[str, Marker]]:
    """Return (color, marker) of each source.

    A source looks the same in all figures that show the same sources. Within a family such as noised_0.05 and
    noised_0.15, a larger number has a lighter color and another marker.
    """
    families: dict[str, list[str]] = {}
    unknown: list[str] = []
    for source in sources:
        family = get_family(source)
        if family in FAMILY_STYLES:
            families.setdefault(family, []).append(source)
        else:
            unknown.append(source)
    styles = {source: UNKNOWN_STYLES[rank % len(UNKNOWN_STYLES)] for rank, source in enumerate(unknown)}
    further = itertools.cycle(FURTHER_MARKERS)
    for family, members in families.items():
        color, marker = FAMILY_STYLES[family]
        for rank, source in enumerate(sorted(members, key=trailing_number)):
            share = 0.55 * rank / max(1, len(members) - 1)
            styles[source] = lighten(color, share), next(further) if rank else marker
    return styles


def trailing_number(source: str) -> float:
    """Return the number at the end of a source's name, or infinity if there is none."""
    number = split_number(source)[1]
    return math.inf if number is None else number


def lighten(color: str, share: float) -> str:
    """Mix the color with this share of white, in [0, 1]."""
    red, green, blue = (channel + (1 - channel) * share for channel in to_rgb(color))
    return to_hex((red, green, blue))


def use_plain_log_ticks(axis: Axis) -> None:
    """Label a logarithmic axis 0.1, 0.2, 0.5, because a narrow range shows only one or two powers of ten."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def add_legend_below(drawn: Figure, axes: Axes, columns: int = 3) -> None:
    """Add one legend for the figure, beneath the data and never over it."""
    handles, labels = axes.get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside lower center", ncols=columns)


def save(drawn: Figure, folder: Path, name: str) -> Mapping[str, Path]:
    """Write the figure as PNG and SVG, without dates, and return the two paths by kind."""
    files = {kind: folder / f"{name}.{kind}" for kind in ("png", "svg")}
    with matplotlib.rc_context(RC):
        for kind, path in files.items():
            with replace_atomically(path) as temporary:
                drawn.savefig(temporary, format=kind, dpi=DPI, metadata={"Date": None} if kind == "svg" else None)
            drawn.set_layout_engine("none")  # The second file must keep the layout of the first.
    return files
