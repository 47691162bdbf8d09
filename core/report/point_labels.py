"""Labels beside the points of a scatter plot, placed so that they do not cover each other."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

RADII = (9, 16, 26, 38, 52, 68, 86)  # points between a marker and the nearest corner or edge of its label
DIRECTIONS = np.linspace(0, 2 * np.pi, 16, endpoint=False)
MARKER_SIZE = 10  # points that every marker keeps free of labels
LINE_SHARES = np.linspace(0, 1, 12)  # places on the line to a label that should not cross labels or markers
CROSSING_COST = 40  # One crossing costs as much as this many square pixels of covered text.


def label_points(drawn: Figure, axes: Axes, points: Mapping[str, tuple[float, float]]) -> None:
    """Write each name near its point, at the nearest free place inside the axes.

    Call it last, because it depends on the final layout of the figure.

    Args:
        drawn: The figure that holds the axes.
        axes: The axes that hold the points.
        points: (x, y) in data coordinates, by name.
    """
    drawn.draw_without_rendering()
    scale = drawn.dpi / 72  # pixels per point
    centers = {name: axes.transData.transform(point) for name, point in points.items()}
    taken = [square(center, MARKER_SIZE * scale) for center in centers.values()]
    for name, center in centers.items():
        text = axes.annotate(name, points[name], (0, 0), textcoords="offset points", fontsize=9, zorder=6)
        text.set_in_layout(False)
        extent = text.get_window_extent()
        text.remove()
        size = np.array([extent.width, extent.height]) / scale
        offset = choose_offset(size, center / scale, taken, axes, scale)
        label = axes.annotate(
            name,
            points[name],
            tuple(offset),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=9,
            zorder=6,
            bbox={"boxstyle": "square,pad=0.08", "facecolor": "white", "edgecolor": "none", "alpha": 0.8},
            arrowprops={"arrowstyle": "-", "color": "#555555", "lw": 0.7, "shrinkA": 0, "shrinkB": 4},
        )
        label.set_in_layout(False)
        taken.append(label_box(size, center / scale, offset, scale))


def label_box(size: np.ndarray, center: np.ndarray, offset: np.ndarray, scale: float) -> Bbox:
    """Return the box of a label in pixels. Its size, and the center and offset of its middle, are in points."""
    (x, y), (width, height) = (center + offset - size / 2) * scale, size * scale
    return Bbox.from_bounds(x, y, width, height)


def square(center: np.ndarray, side: float) -> Bbox:
    """Return the square of this side around a point."""
    x, y = center - side / 2
    return Bbox.from_bounds(x, y, side, side)


def choose_offset(size: np.ndarray, center: np.ndarray, taken: list[Bbox], axes: Axes, scale: float) -> np.ndarray:
    """Return the offset of the label's middle in points that covers and crosses least, and the nearest one in a tie."""
    inside = axes.get_window_extent()
    own = square(center * scale, MARKER_SIZE * scale)
    candidates = [
        (np.array([np.cos(angle), np.sin(angle)]) * (radius + size / 2 * np.array([1, 0.4])))
        for radius in RADII
        for angle in DIRECTIONS
    ]

    def cost(offset: np.ndarray) -> float:
        box = label_box(size, center, offset, scale)
        covered = sum(area(Bbox.intersection(box, other)) for other in taken)
        outside = box.width * box.height - area(Bbox.intersection(box, inside))
        line = [(center + share * offset) * scale for share in LINE_SHARES]
        crossed = sum(other.contains(*point) for other in taken for point in line if not own.contains(*point))
        return round(covered + outside + CROSSING_COST * crossed, 3)

    return min(candidates, key=cost)


def area(box: Bbox | None) -> float:
    """Return the area of a box, or 0 if there is none."""
    return 0.0 if box is None else float(box.width * box.height)
