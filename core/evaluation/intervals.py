"""Bootstrap intervals of means over models: how far a mean would move with other models or other test images.

R bootstrap draws · M models · K originals · N images · G groups of images.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import uniform_filter1d

from core.evaluation.kinds import ORIGINAL
from core.evaluation.metrics import find_most_alike, pair_with_others
from core.evaluation.resampling import ENTRIES, Groups, draw_means, draw_sums
from core.evaluation.scores import Scores, ScoreTable
from core.runtime.seeding import derive_seed

# An audit has some 33 comparisons. If only one of them is decided, their intervals have the level 1 − 0.05 / 33, beyond
# each end of which 7 of 10,000 draws lie. The more comparisons are decided, the more draws lie there.
DRAWS = 10_000
TOLERANCE = 1e-9  # Limits of p-values are fractions, which floats miss by some 1e-16.
DECIMALS = 12  # Rounded draws of two equal sources are equal, although the order of the sums differs.


def percentile_interval(draws_R: np.ndarray, level: float = 0.95) -> list[float]:
    """Return [low, high], the percentile interval of the draws.

    The ends are the k-th smallest and the k-th largest draw, with k = (1 − level) (R + 1) / 2 rounded down (Davison &
    Hinkley 1997, Bootstrap Methods and their Application, section 5.2.1). The interval of a difference therefore
    excludes 0 if and only if `two_sided_p_value` is at most 1 − level. With too few draws for the level (k = 0) the
    interval is infinite.
    """
    k = int((1 - level) * (1 + TOLERANCE) * (len(draws_R) + 1) / 2)
    if k == 0:
        return [-np.inf, np.inf]
    sorted_R = np.sort(draws_R)
    return [float(sorted_R[k - 1]), float(sorted_R[-k])]


def two_sided_p_value(draws_R: np.ndarray) -> float:
    """Return the p-value of the hypothesis that the quantity behind the draws is 0, at most 1.

    It is twice the share of the draws on the rarer side of 0. Draws of exactly 0 count on both sides. One is added to
    both counts, because the observed value itself is a draw under the hypothesis and no p-value can be 0 (Phipson &
    Smyth 2010, Statistical Applications in Genetics and Molecular Biology 9).
    """
    rarer = min(np.count_nonzero(draws_R <= 0), np.count_nonzero(draws_R >= 0))
    return min(1.0, 2 * (1 + rarer) / (len(draws_R) + 1))


def control_false_discoveries(p_values: np.ndarray, rate: float = 0.05) -> tuple[np.ndarray, float]:
    """Decide a family of m comparisons so that the expected share of wrong ones among the decided ones is bounded.

    Of the comparisons ordered by p-value, the first k are decided, with the largest k whose p-value is at most
    rate k / m (Benjamini & Hochberg 1995, Journal of the Royal Statistical Society B 57). Intervals at the level
    1 − rate max(k, 1) / m exclude 0 for exactly these k comparisons (Benjamini & Yekutieli 2005, Journal of the
    American Statistical Association 100).

    Args:
        p_values: One p-value for each comparison (m,), from `two_sided_p_value`.
        rate: Largest expected share of wrong decisions among all decisions.

    Returns:
        Whether each comparison is decided (m,), and the common level of the intervals.
    """
    m = len(p_values)
    passed = np.flatnonzero(np.sort(p_values) <= rate * np.arange(1, m + 1) / m * (1 + TOLERANCE))
    limit = rate * (passed[-1] + 1 if len(passed) else 1) / max(m, 1)
    return p_values <= limit * (1 + TOLERANCE), float(1 - limit)


@dataclass(frozen=True)
class Margins:
    """Row and column means of values y (M, N), one value for each model on each image."""

    models_M: np.ndarray  # mean over images
    groups_G: np.ndarray  # sum of ȳ_n − ȳ over each group; empty if only the models' means are known
    model_share: float  # share in [0, 1] of the variance of `models_M` that is due to the models


def measure_margins(
    models_M: np.ndarray, read: Callable[[np.ndarray], np.ndarray], groups: Groups, block_length: int = 1
) -> Margins:
    """Measure the margins of values y (M, N), which are read some columns at a time to bound memory.

    A part of the variance of the models' means comes from the images on which each model happens to fail, and is no
    difference between models. It is the residual of a two-way analysis of variance without replication: the sum over
    groups of the squared interaction, divided by N². The rest is the model share. Models resampled in blocks are
    compared by the means of blocks, because chance errors can outlast differences in quality along a walk, or fade
    before them.

    Args:
        models_M: Mean of each model over the images.
        read: Function from indices of images to the values of all models on them, (M, number of indices).
        groups: Groups in which the images are resampled.
        block_length: Number of consecutive models that are resampled together.
    """
    parts, residual = [], 0.0
    for part in groups.split(ENTRIES // len(models_M)):
        centered_MN = read(part.order_N) - models_M[:, None]
        centered_MG = Groups(np.arange(len(part.order_N)), part.ends_G).sum(centered_MN)
        parts.append(centered_MG.mean(axis=0))
        residual += float((average_blocks(centered_MG - parts[-1], block_length) ** 2).sum())
    # The factor makes the variance over G groups unbiased, like G − 1 in its denominator.
    by_chance = residual / len(groups.order_N) ** 2 * len(groups) / max(len(groups) - 1, 1)
    spread = float((average_blocks(models_M - models_M.mean(), block_length) ** 2).sum())
    share = float(np.clip(1 - by_chance / spread, 0, 1)) if spread else 1.0
    return Margins(models_M, np.concatenate(parts), share)


def average_blocks(values: np.ndarray, block_length: int) -> np.ndarray:
    """Return the mean over each circular block of consecutive rows, in the shape of the values."""
    return values if block_length == 1 else uniform_filter1d(values, block_length, axis=0, mode="wrap")


def measure_accuracy_margins(scores: Scores, groups: Groups, block_length: int = 1) -> Margins:
    """Return the margins of values that are 1 if the model is right on the image, else 0.

    Without groups, the margins are those of the primary metric of the models alone.
    """
    if not len(groups):
        return Margins(scores.accuracy_M, np.empty(0), 1.0)
    wrong_MN = scores.require_wrong()
    return measure_margins(1 - wrong_MN.mean(axis=1), lambda images: 1.0 - wrong_MN[:, images], groups, block_length)


def measure_max_iou_margins(
    wrong_MN: np.ndarray,
    reference_KN: np.ndarray,
    groups: Groups,
    block_length: int = 1,
    apart_MK: np.ndarray | None = None,
) -> Margins:
    """Return the margins of the influence of each image on the maximum IoU of each model.

    The value for a model and an image is the maximum IoU of the model plus N times its change when this image is drawn
    once more. To first order in the weights v of the images, IoU = Σ v both / Σ v either changes by
    (both − IoU · either) / Σ either. The nearest original stays fixed, so the spread is overestimated if several
    originals are about equally near. `apart_MK` is explained in `find_most_alike`.
    """
    iou_M, nearest_M = find_most_alike(wrong_MN, reference_KN, apart_MK)
    iou_M = iou_M.astype(np.float64)
    pairs = zip(wrong_MN, nearest_M, strict=True)
    sizes_M = np.array([np.count_nonzero(wrong_N | reference_KN[nearest]) for wrong_N, nearest in pairs])
    scale_M = wrong_MN.shape[1] / np.maximum(sizes_M, 1)

    def read(images: np.ndarray) -> np.ndarray:
        wrong, nearest = wrong_MN[:, images], reference_KN[np.ix_(nearest_M, images)]
        change = (wrong & nearest) - iou_M[:, None] * (wrong | nearest)
        return iou_M[:, None] + change * scale_M[:, None]

    return measure_margins(iou_M, read, groups, block_length)


class Bootstrap:
    """Bootstrap draws of the mean accuracy and of the mean maximum IoU of several sources, on test.

    Both models and images are resampled. Models are resampled because another seed gives other models. Images are
    resampled because the test set is a sample, too. All models share the test set, so its chance effects do not
    average out over models. An interval over models alone shows how well the mean *on these images* is known. With
    many models it gets arbitrarily narrow, although the test set stays one sample. Images that are versions of one
    image are resampled together, as groups (`Scores.groups_N`).

    A draw changes the mean by two terms: resampled images with all models, plus resampled models with all images. The
    second term is scaled down to the variance between models (`Margins.model_share`). The first term already covers the
    variance within a model, that is, on which images it fails by chance. Resampling models and images at once would
    count the variance within a model three times (Owen 2007, The pigeonhole bootstrap, Annals of Applied Statistics 1,
    386–411). The interval of a difference of two similar sources would then be up to √3 times too wide, because little
    other variance is left in it.

    All sources share the same resampled images, so the difference between the draws of two sources is paired. An image
    that is hard for both sources does not change it. Models are resampled independently. For a source of one model only
    the images are resampled. Without masks of wrong images only the models are resampled.

    Models that are consecutive steps of one training resemble their neighbors. They are resampled in circular blocks
    (`draw_counts`), so that the block means vary as the walk does. Originals are resampled as scored models only: the
    set of originals in which a maximum IoU is sought stays complete. Blocks of L among M models show their own mean
    and not the true one, which makes their variance too small by 1 − L / M. The second term is divided by its root.
    Few models show little about their spread. Each draw of the second term is therefore multiplied by √(f / χ²_f), with
    f = M / L − 1 degrees of freedom and a χ² of its own. This turns a normal distribution into Student's t, so that
    intervals of any level have its width.

    The intervals have three limits. All sources are made from the same K checkpoints, which are not resampled. The
    trained generator is taken as given, too, so an interval says nothing about the next training of a generator. Models
    of a source without a block length count as independent.

    Args:
        tables: Score tables by source, including "original", all scored on the same images.
        block_lengths: Number of consecutive models that are resampled together, by source; 1 for other sources. More
            than half the number of models is taken as half.
        apart_KK: Which originals an original is compared with in its maximum IoU, as in
            `core.evaluation.copying.pair_originals`; None: all others.
        seed: Seed of the draws.
        draws: Number of draws, R.

    Raises:
        ValueError: The sources were scored on different images or groups, or only some of them have masks.
    """

    def __init__(
        self,
        tables: Mapping[str, ScoreTable],
        *,
        block_lengths: Mapping[str, int] | None = None,
        apart_KK: np.ndarray | None = None,
        seed: int = 0,
        draws: int = DRAWS,
    ):
        self.tables, self.block_lengths, self.seed, self.draws = tables, block_lengths or {}, seed, draws
        scores = {source: table.scores["test"] for source, table in tables.items()}
        sizes = {name: None if each.wrong_MN is None else each.wrong_MN.shape[1] for name, each in scores.items()}
        if len(set(sizes.values())) > 1:
            raise ValueError(
                f"all sources must be scored on the same test images, got these numbers of images: {sizes}"
            )
        if len({None if each.groups_N is None else each.groups_N.tobytes() for each in scores.values()}) > 1:
            raise ValueError(f"the test images must be in the same groups for all sources: {', '.join(sizes)}")
        num_images, groups_N = next(iter(sizes.values())), next(iter(scores.values())).groups_N
        self._groups = Groups.index(num_images, groups_N) if num_images else Groups.index(0)
        self._apart_KK = pair_with_others(len(tables[ORIGINAL].vectors_MD)) if apart_KK is None else apart_KK
        self._cache: dict[str, dict[str, np.ndarray]] = {}
        self._iou_margins: dict[str, Margins] = {}

    @property
    def has_images(self) -> bool:
        """Whether the tables hold masks of wrong images, which a maximum IoU needs."""
        return len(self._groups) > 0

    def find_partners(self, source: str) -> np.ndarray | None:
        """Return which originals count for each model of a source (M, K); None: all."""
        return self._apart_KK if source == ORIGINAL else None

    def varies(self, *sources: str) -> bool:
        """Return whether an interval is possible, that is, whether any source has models or images to resample."""
        return self.has_images or any(len(self.tables[source].vectors_MD) > 1 for source in sources)

    def draw_accuracy(self, source: str) -> np.ndarray:
        """Return draws of the mean test accuracy (R,)."""
        if "accuracy" not in self._cache:
            self._cache["accuracy"] = self._draw(
                {
                    name: measure_accuracy_margins(table.scores["test"], self._groups, self._get_block_length(name))
                    for name, table in self.tables.items()
                }
            )
        return self._cache["accuracy"][source]

    def draw_max_iou(self, source: str) -> np.ndarray:
        """Return draws of the mean maximum IoU with the originals (R,); originals are compared as in `find_partners`.

        Raises:
            ValueError: The tables hold no masks of wrong images.
        """
        if "max_iou" not in self._cache:
            self._cache["max_iou"] = self._draw(self.measure_iou_margins())
        return self._cache["max_iou"][source]

    def measure_iou_margins(self) -> Mapping[str, Margins]:
        """Return the margins of the maximum IoU by source, without those of a single original."""
        if not self._iou_margins:
            wrong = {name: table.scores["test"].require_wrong() for name, table in self.tables.items()}
            self._iou_margins = {
                name: measure_max_iou_margins(
                    wrong_MN, wrong[ORIGINAL], self._groups, self._get_block_length(name), self.find_partners(name)
                )
                for name, wrong_MN in wrong.items()
                if name != ORIGINAL or len(wrong_MN) > 1
            }
        return self._iou_margins

    def _get_block_length(self, source: str) -> int:
        return max(1, min(self.block_lengths.get(source, 1), len(self.tables[source].vectors_MD) // 2))

    def _draw(self, margins: Mapping[str, Margins]) -> dict[str, np.ndarray]:
        """Return draws of the mean by source, for all sources at once, because counting images takes long."""
        drawn = {source: self._draw_models(source, each) for source, each in margins.items()}
        if self.has_images:
            groups_SG = np.stack([each.groups_G for each in margins.values()])
            seed = derive_seed(self.seed, "bootstrap images")
            images_RS = draw_means(groups_SG, self._groups.sizes_G, self.draws, seed)
            drawn = {source: drawn[source] + images_R for source, images_R in zip(drawn, images_RS.T, strict=True)}
        return {source: draws_R.round(DECIMALS) for source, draws_R in drawn.items()}

    def _draw_models(self, source: str, margins: Margins) -> np.ndarray:
        """Return draws of the mean that differ by the resampled models of one source only (R,)."""
        m, mean = len(margins.models_M), margins.models_M.mean()
        if m == 1:
            return np.full(self.draws, mean)
        length = self._get_block_length(source)
        seed = derive_seed(self.seed, f"bootstrap {source}")
        sums_R = draw_sums((margins.models_M - mean)[None], self.draws, seed, length)[:, 0]
        freedom = m / length - 1
        random = np.random.default_rng(derive_seed(self.seed, f"bootstrap spread of {source}"))
        widths_R = np.sqrt(freedom / random.chisquare(freedom, size=self.draws))
        return mean + sums_R / m * widths_R * np.sqrt(margins.model_share / (1 - length / m))
