"""Bootstrap intervals for means over models: how far a number would move with other models and other test images.

R bootstrap draws · M models · K originals · N images.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from core.evaluation.kinds import ORIGINAL
from core.evaluation.metrics import most_alike
from core.evaluation.scores import ScoreTable
from core.runtime.seeding import derive_seed

DRAWS = 2000  # the end of a 95 % interval then moves by about 3 % of the interval's half width with the seed
ROWS = 256  # models at a time: only so many rows of masks are held as numbers


def resampling_counts(size: int, draws: int, seed: int) -> np.ndarray:
    """Draw how often each of `size` items occurs, (R, size) float32: every row is multinomial and sums to `size`."""
    random = np.random.default_rng(seed)
    counts = np.empty((draws, size), np.float32)
    for row in counts:  # Generator.multinomial draws from the same distribution, ten times slower
        row[:] = np.bincount(random.integers(size, size=size), minlength=size)
    return counts


def interval(draws_R: np.ndarray, level: float = 0.95) -> list[float]:
    """Return [low, high], the percentile interval of the draws."""
    return [float(end) for end in np.quantile(draws_R, [(1 - level) / 2, (1 + level) / 2])]


@dataclass(frozen=True)
class Margins:
    """Margins of values y (M, N), one for each model on each image, whose mean is of interest."""

    models_M: np.ndarray  # mean over images
    images_N: np.ndarray | None  # mean over models; None where only the models' means are known
    squares: float = 0.0  # sum of y²

    @property
    def model_share(self) -> float:
        """Share of the models' variance that is their own, in [0, 1]; the rest is which images they happen to fail on.

        Two-way analysis of variance without replication: the residual mean square, over N, is what images put into
        the variance of the models' means.
        """
        spread = self.models_M.var(ddof=1) if len(self.models_M) > 1 else 0.0
        if self.images_N is None or spread == 0:
            return 1.0
        m, n, mean = len(self.models_M), len(self.images_N), self.models_M.mean()
        residual = self.squares - n * (self.models_M**2).sum() - m * (self.images_N**2).sum() + m * n * mean**2
        return float(np.clip(1 - residual / ((m - 1) * max(n - 1, 1)) / n / spread, 0, 1))


def accuracy_margins(accuracy_M: np.ndarray, wrong_MN: np.ndarray | None) -> Margins:
    """Return the margins of 1 where the model is right, and 0 where it is wrong."""
    if wrong_MN is None:
        return Margins(accuracy_M, None)
    right_M = 1 - wrong_MN.mean(axis=1)
    return Margins(right_M, 1 - wrong_MN.mean(axis=0), right_M.sum() * wrong_MN.shape[1])


def max_iou_margins(wrong_MN: np.ndarray, reference_KN: np.ndarray, *, same: bool) -> Margins:
    """Return the margins of the model's maximum IoU, plus how far this image moves it if it is drawn once more.

    To first order in the images' weights v, IoU = Σ v both / Σ v either changes by (both − IoU · either) / Σ either.
    Which original is the nearest stays fixed, so the spread is overestimated where several are about equally near.
    """
    iou_M, nearest_M = most_alike(wrong_MN, reference_KN, same=same)
    images_N, squares, n = np.zeros(wrong_MN.shape[1]), 0.0, wrong_MN.shape[1]
    for start in range(0, len(wrong_MN), ROWS):
        rows = slice(start, start + ROWS)
        wrong, nearest, iou = wrong_MN[rows], reference_KN[nearest_M[rows]], iou_M[rows, None]
        either = wrong | nearest
        values = iou + ((wrong & nearest) - iou * either) * (
            n / np.maximum(either.sum(axis=1, keepdims=True), 1)
        ).astype(np.float32)
        images_N += values.sum(axis=0)
        squares += float((values**2).sum(dtype=np.float64))
    return Margins(iou_M.astype(np.float64), images_N / len(wrong_MN), squares)


class Bootstrap:
    """Bootstrap draws of the mean accuracy and of the mean maximum IoU of several sources, on test.

    Two-way: both models and images are resampled. Models, since another seed gives other models. Images, since the
    test set is a sample, too, and all models share it, so that its luck does not average out over models: an interval
    over models alone says how well the mean *on these images* is known, and gets arbitrarily narrow with M.

    A draw moves the mean by the resampled images, all models kept, plus the resampled models, all images kept. The
    models' part is shrunk to what is their own (`Margins.model_share`): which images a model happens to fail on is in
    the images' part already. Crossing each draw of models with one of images instead counts it three times (Owen 2007,
    The pigeonhole bootstrap, Annals of Applied Statistics 1, 386–411), which makes the interval of a difference of two
    similar sources up to √3 too wide, since little else is left of it.

    All sources share the same resampled images, so the difference of two sources' draws is a paired one: an image
    that is hard for both moves neither. Models are resampled independently. Of a source of one model only the images
    vary. Without masks of wrong images only the models vary.

    Two things are not covered. All sources are made from the same K checkpoints, which are taken as they are. Models of
    one source count as independent, although originals are steps of one training. The models' part is too narrow by
    √(1 − 1/M), as with any bootstrap: few models say little about their spread.

    Args:
        tables: sources by name, with "original" among them; all scored on the same images.

    Raises:
        ValueError: two sources were scored on different numbers of images, or one without masks.
    """

    def __init__(self, tables: Mapping[str, ScoreTable], seed: int = 0, draws: int = DRAWS):
        self.tables, self.seed, self.draws = tables, seed, draws
        masks = {source: table.scores["test"].wrong_MN for source, table in tables.items()}
        sizes = {source: None if wrong_MN is None else wrong_MN.shape[1] for source, wrong_MN in masks.items()}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"sources must be scored on the same test images, but their numbers of images are {sizes}")
        num_images = next(iter(sizes.values()))
        self._images_RN = (
            None if num_images is None else resampling_counts(num_images, draws, derive_seed(seed, "bootstrap images"))
        )
        self._kept: dict[tuple[str, str], np.ndarray] = {}

    @property
    def has_images(self) -> bool:
        """Whether it is known which images are wrong, as a maximum IoU needs."""
        return self._images_RN is not None

    def varies(self, *sources: str) -> bool:
        """Tell whether there is anything to resample in any of these sources; if not, an interval would be a point."""
        return self.has_images or any(len(self.tables[source].vectors_MD) > 1 for source in sources)

    def accuracy(self, source: str) -> np.ndarray:
        """Draw the mean test accuracy (R,)."""
        scores = self.tables[source].scores["test"]
        return self._draws("accuracy", source, lambda: accuracy_margins(scores.accuracy_M, scores.wrong_MN))

    def max_iou(self, source: str) -> np.ndarray:
        """Draw the mean maximum IoU with the originals (R,); an original is compared with the others only."""
        wrong_MN, reference_KN = (self.tables[name].scores["test"].known_wrong() for name in (source, ORIGINAL))
        return self._draws("max_iou", source, lambda: max_iou_margins(wrong_MN, reference_KN, same=source == ORIGINAL))

    def _draws(self, measure: str, source: str, margins_of: Callable[[], Margins]) -> np.ndarray:
        """Draw the mean, and keep the draws: each source is compared with several others."""
        if (measure, source) not in self._kept:
            margins, m = margins_of(), len(self.tables[source].vectors_MD)
            mean = margins.models_M.mean()
            models_RM = resampling_counts(m, self.draws, derive_seed(self.seed, f"bootstrap {source}"))
            draws_R = mean + models_RM @ (margins.models_M - mean) / m * np.sqrt(margins.model_share)
            if margins.images_N is not None:  # float32, as the counts are: a product of mixed types copies them
                draws_R += self._images_RN @ (margins.images_N - mean).astype(np.float32) / len(margins.images_N)
            self._kept[measure, source] = draws_R
        return self._kept[measure, source]
