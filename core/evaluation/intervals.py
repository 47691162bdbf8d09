"""Bootstrap intervals of means over models: how far a mean would move with other models or other test images.

R bootstrap draws · M models · K originals · N images.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from core.evaluation.kinds import ORIGINAL
from core.evaluation.metrics import find_most_alike
from core.evaluation.scores import ScoreTable
from core.runtime.seeding import derive_seed

DRAWS = 2000  # Another seed then moves an end of a 95% interval by about 3% of the half width.
ROWS = 256  # number of models whose masks are held as floats at a time, to bound memory


def draw_counts(size: int, draws: int, seed: int) -> np.ndarray:
    """Draw how often each of `size` items occurs in each bootstrap sample, (R, size) float32.

    Every row is a multinomial sample and sums to `size`.
    """
    random = np.random.default_rng(seed)
    counts = np.empty((draws, size), np.float32)
    for row in counts:  # Generator.multinomial has the same distribution but is ten times slower.
        row[:] = np.bincount(random.integers(size, size=size), minlength=size)
    return counts


def percentile_interval(draws_R: np.ndarray, level: float = 0.95) -> list[float]:
    """Return [low, high], the percentile interval of the draws."""
    return [float(end) for end in np.quantile(draws_R, [(1 - level) / 2, (1 + level) / 2])]


@dataclass(frozen=True)
class Margins:
    """Row and column means of values y (M, N), one value for each model on each image."""

    models_M: np.ndarray  # mean over images
    images_N: np.ndarray | None  # mean over models; None if only the means of the models are known
    squares: float = 0.0  # sum of y² over all models and images

    @property
    def model_share(self) -> float:
        """Share in [0, 1] of the variance of `models_M` that comes from differences between the models.

        The rest comes from the images on which each model happens to fail. This part is the residual mean square of a
        two-way analysis of variance without replication, divided by N.
        """
        spread = self.models_M.var(ddof=1) if len(self.models_M) > 1 else 0.0
        if self.images_N is None or spread == 0:
            return 1.0
        m, n, mean = len(self.models_M), len(self.images_N), self.models_M.mean()
        residual = self.squares - n * (self.models_M**2).sum() - m * (self.images_N**2).sum() + m * n * mean**2
        return float(np.clip(1 - residual / ((m - 1) * max(n - 1, 1)) / n / spread, 0, 1))


def compute_accuracy_margins(accuracy_M: np.ndarray, wrong_MN: np.ndarray | None) -> Margins:
    """Return the margins of values that are 1 if the model is right on the image, else 0."""
    if wrong_MN is None:
        return Margins(accuracy_M, None)
    right_M = 1 - wrong_MN.mean(axis=1)
    return Margins(right_M, 1 - wrong_MN.mean(axis=0), right_M.sum() * wrong_MN.shape[1])


def compute_max_iou_margins(wrong_MN: np.ndarray, reference_KN: np.ndarray, *, same: bool) -> Margins:
    """Return the margins of the influence of each image on the maximum IoU of each model.

    The value for a model and an image is the maximum IoU of the model plus N times its change when this image is drawn
    once more. To first order in the weights v of the images, IoU = Σ v both / Σ v either changes by
    (both − IoU · either) / Σ either. The nearest original stays fixed, so the spread is overestimated if several
    originals are about equally near.
    """
    iou_M, nearest_M = find_most_alike(wrong_MN, reference_KN, same=same)
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

    Both models and images are resampled. Models are resampled because another seed gives other models. Images are
    resampled because the test set is a sample, too. All models share the test set, so its chance effects do not
    average out over models. An interval over models alone shows how well the mean *on these images* is known. With
    many models it gets arbitrarily narrow, although the test set stays one sample.

    A draw changes the mean by two terms: resampled images with all models, plus resampled models with all images. The
    second term is scaled down to the variance between models (`Margins.model_share`). The first term already covers the
    variance within a model, that is, on which images it fails by chance. Resampling models and images at once would
    count the variance within a model three times (Owen 2007, The pigeonhole bootstrap, Annals of Applied Statistics 1,
    386–411). The interval of a difference of two similar sources would then be up to √3 times too wide, because little
    other variance is left in it.

    All sources share the same resampled images, so the difference between the draws of two sources is paired. An image
    that is hard for both sources does not change it. Models are resampled independently. For a source of one model only
    the images are resampled. Without masks of wrong images only the models are resampled.

    The intervals have three limits. All sources are made from the same K checkpoints, which are not resampled. Models
    of one source count as independent, although originals can be steps of one training. The term of the models is too
    narrow by √(1 − 1/M), as with any bootstrap, because few models show little about their spread.

    Args:
        tables: Score tables by source, including "original", all scored on the same images.
        seed: Seed of the draws.
        draws: Number of draws, R.

    Raises:
        ValueError: The sources were scored on different numbers of images, or only some of them have masks.
    """

    def __init__(self, tables: Mapping[str, ScoreTable], seed: int = 0, draws: int = DRAWS):
        self.tables, self.seed, self.draws = tables, seed, draws
        masks = {source: table.scores["test"].wrong_MN for source, table in tables.items()}
        sizes = {source: None if wrong_MN is None else wrong_MN.shape[1] for source, wrong_MN in masks.items()}
        if len(set(sizes.values())) > 1:
            raise ValueError(
                f"all sources must be scored on the same test images, got these numbers of images: {sizes}"
            )
        num_images = next(iter(sizes.values()))
        self._images_RN = (
            None if num_images is None else draw_counts(num_images, draws, derive_seed(seed, "bootstrap images"))
        )
        self._cache: dict[tuple[str, str], np.ndarray] = {}

    @property
    def has_images(self) -> bool:
        """Whether the tables hold masks of wrong images, which a maximum IoU needs."""
        return self._images_RN is not None

    def varies(self, *sources: str) -> bool:
        """Return whether an interval is possible, that is, whether any source has models or images to resample."""
        return self.has_images or any(len(self.tables[source].vectors_MD) > 1 for source in sources)

    def draw_accuracy(self, source: str) -> np.ndarray:
        """Return draws of the mean test accuracy (R,)."""
        scores = self.tables[source].scores["test"]
        return self._draw("accuracy", source, lambda: compute_accuracy_margins(scores.accuracy_M, scores.wrong_MN))

    def draw_max_iou(self, source: str) -> np.ndarray:
        """Return draws of the mean maximum IoU with the originals (R,); an original is not compared with itself."""
        wrong_MN, reference_KN = (self.tables[name].scores["test"].require_wrong() for name in (source, ORIGINAL))
        return self._draw(
            "max_iou", source, lambda: compute_max_iou_margins(wrong_MN, reference_KN, same=source == ORIGINAL)
        )

    def _draw(self, measure: str, source: str, compute_margins: Callable[[], Margins]) -> np.ndarray:
        """Return draws of the mean, cached because each source is compared with several other sources."""
        if (measure, source) not in self._cache:
            margins, m = compute_margins(), len(self.tables[source].vectors_MD)
            mean = margins.models_M.mean()
            models_RM = draw_counts(m, self.draws, derive_seed(self.seed, f"bootstrap {source}"))
            draws_R = mean + models_RM @ (margins.models_M - mean) / m * np.sqrt(margins.model_share)
            if margins.images_N is not None:
                # float32 like the counts, because a product of mixed types would copy the counts
                draws_R += self._images_RN @ (margins.images_N - mean).astype(np.float32) / len(margins.images_N)
            self._cache[measure, source] = draws_R
        return self._cache[measure, source]
