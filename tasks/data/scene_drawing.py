"""Scenes: handwritten digits of several sizes on a canvas of smooth, colored noise.

All arithmetic gives the same bytes on every machine: Pillow enlarges bytes with whole numbers, and the rest is done
number by number in float64.

S = 64 pixels · n digits of one scene · s side of a pasted digit.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

CANVAS = 64  # S
SIZES = 10, 28  # the smallest and the largest s
MAX_OVERLAP = 0.15  # of two boxes, as a share of the smaller one
# Cells per side and amplitude of each layer of noise. The first two are smooth, the last one differs in every pixel.
TEXTURE = (4, 50), (12, 25), (CANVAS, 10)
BASE_COLORS = 60, 196  # the range of a canvas' mean color
CONTRAST = 65, 120  # the range of the difference between the color of a digit and the mean color beneath it
COLOR_JITTER = 30
INK = 128  # the least opacity, of 255, of a pixel that counts as part of a digit


@dataclass(frozen=True)
class Scene:
    """One drawn scene."""

    image_SS3: np.ndarray  # bytes
    owner_SS: np.ndarray  # the number of the digit that a pixel shows, 1 … n, or 0
    classes: tuple[int, ...]  # of each digit, 0 … 9

    def list_objects(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the class and the visible pixels (S, S) of each digit."""
        for number, digit_class in enumerate(self.classes, start=1):
            yield digit_class, self.owner_SS == number


def draw_scene(digits_n88: Sequence[np.ndarray], classes: Sequence[int], random: np.random.Generator) -> Scene:
    """Return a scene with all digits; a later one covers the few common pixels of an earlier one.

    Args:
        digits_n88: The digits, in numbers of 0 to 16.
        classes: Their classes.
        random: The source of all random choices.
    """
    canvas_SS3, owner_SS = draw_texture(random), np.zeros((CANVAS, CANVAS), dtype=np.uint8)
    boxes: list[np.ndarray] = []
    for number, digit_88 in enumerate(digits_n88, start=1):
        opacity_ss, top, left = place(digit_88, boxes, random)
        rows, columns = (slice(start, start + len(opacity_ss)) for start in (top, left))
        color_3 = choose_color(canvas_SS3[rows, columns], random)
        weight_ss1 = opacity_ss[:, :, None] / 255
        canvas_SS3[rows, columns] = weight_ss1 * color_3 + (1 - weight_ss1) * canvas_SS3[rows, columns]
        owner_SS[rows, columns][opacity_ss >= INK] = number
    image_SS3 = np.clip(np.rint(canvas_SS3), 0, 255).astype(np.uint8)
    return Scene(image_SS3, owner_SS, tuple(map(int, classes)))


def draw_texture(random: np.random.Generator) -> np.ndarray:
    """Return smooth, colored noise (S, S, 3) around a random color."""
    canvas_SS3 = np.tile(random.uniform(*BASE_COLORS, 3), (CANVAS, CANVAS, 1))
    for cells, amplitude in TEXTURE:
        noise = Image.fromarray(random.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        layer = np.asarray(noise.resize((CANVAS, CANVAS), Image.Resampling.BICUBIC), dtype=np.float64)
        canvas_SS3 += amplitude * (layer / 127.5 - 1)
    return canvas_SS3


def place(digit_88: np.ndarray, boxes: list[np.ndarray], random: np.random.Generator) -> tuple[np.ndarray, int, int]:
    """Return a digit of random size (s, s), as opacities, and its place (top, left).

    Args:
        digit_88: The digit, in numbers of 0 to 16.
        boxes: The boxes (top, left, bottom, right) of earlier digits, to which that of this digit is added.
        random: The source of all random choices.
    """
    # A place is found, because three digits of the largest size leave a corner free for one of the smallest.
    while True:
        side = int(random.integers(*SIZES, endpoint=True))
        top, left = (int(start) for start in random.integers(0, CANVAS - side, 2, endpoint=True))
        bytes_88 = Image.fromarray((digit_88 * 255 / 16).astype(np.uint8))
        opacity_ss = np.asarray(bytes_88.resize((side, side), Image.Resampling.BICUBIC))
        box = find_box(opacity_ss >= INK) + np.array([top, left, top, left])
        if all(measure_overlap(box, other) <= MAX_OVERLAP for other in boxes):
            boxes.append(box)
            return opacity_ss, top, left


def find_box(pixels_SS: np.ndarray) -> np.ndarray:
    """Return the box (top, left, bottom, right) around all true pixels, of which there is at least one."""
    rows, columns = (np.flatnonzero(pixels_SS.any(axis=axis)) for axis in (1, 0))
    return np.array([rows[0], columns[0], rows[-1] + 1, columns[-1] + 1])


def measure_overlap(box: np.ndarray, other: np.ndarray) -> float:
    """Return the common area of two boxes as a share of the smaller one."""
    height, width = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
    areas = [np.prod(corners[2:] - corners[:2]) for corners in (box, other)]
    return max(0, height) * max(0, width) / min(areas)


def choose_color(beneath_ss3: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return a color (3,) that is brighter or darker than the pixels beneath, toward the farther end of the range."""
    mean_3 = beneath_ss3.mean(axis=(0, 1))
    direction = 1 if mean_3.mean() < 128 else -1
    jitter_3 = random.uniform(-COLOR_JITTER, COLOR_JITTER, 3)
    return np.clip(mean_3 + direction * random.uniform(*CONTRAST) + jitter_3, 0, 255)
