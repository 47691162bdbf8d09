"""Bootstrap intervals of means over models: how far a mean would move with other models or other test images.

R bootstrap draws · M models · K originals · N images · G groups of images.
"""

from collections.abc import Mapping

import numpy as np

from core.evaluation.kinds import ORIGINAL
from core.evaluation.margins import Margins, Similarity, measure_accuracy_margins, measure_similarity_margins
from core.evaluation.metrics import measure_similarity, pair_with_others
from core.evaluation.resampling import Groups, draw_means, draw_sums
from core.evaluation.scores import ScoreTable
from core.evaluation.yardstick import Partners
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


class Bootstrap:
    """Bootstrap draws of the mean primary metric of several sources, and of their mean largest similarity, on test.

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
    the images are resampled. If the influence of the images on the primary metric is unknown (`Scores.has_influence`),
    only the models are resampled for it.

    Models that are consecutive steps of one training resemble their neighbors. They are resampled in circular blocks
    (`draw_counts`), so that the block means vary as the walk does. Originals are resampled as scored models only: the
    set of originals in which a maximum is sought stays complete. Blocks of L among M models show their own mean
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
        partners: The originals that an original is compared with in its largest similarity, as in
            `core.evaluation.yardstick.pair_originals`; None: all others.
        seed: Seed of the draws.
        draws: Number of draws, R.

    Raises:
        ValueError: The sources were scored on different images or groups, or only some have masks or influences.
    """

    def __init__(
        self,
        tables: Mapping[str, ScoreTable],
        *,
        block_lengths: Mapping[str, int] | None = None,
        partners: Partners | None = None,
        seed: int = 0,
        draws: int = DRAWS,
    ):
        self.tables, self.block_lengths, self.seed, self.draws = tables, block_lengths or {}, seed, draws
        self.partners = partners
        scores = {source: table.scores["test"] for source, table in tables.items()}
        sizes: dict[str, int | None] = {}
        for array in ("wrong_MN", "influence_MN"):
            arrays = {name: getattr(each, array) for name, each in scores.items()}
            sizes = {name: None if array_MN is None else array_MN.shape[1] for name, array_MN in arrays.items()}
            if len(set(sizes.values())) > 1:
                raise ValueError(
                    f"all sources must be scored on the same test images, got these numbers of images: {sizes}"
                )
        if len({None if each.groups_N is None else each.groups_N.tobytes() for each in scores.values()}) > 1:
            raise ValueError(f"the test images must be in the same groups for all sources: {', '.join(sizes)}")
        first = next(iter(scores.values()))
        self._groups = Groups.index(first.num_items, first.groups_N) if first.num_items else Groups.index(0)
        self._has_errors = first.wrong_MN is not None
        self._has_influence = all(each.has_influence for each in scores.values())
        self._cache: dict[str, dict[str, np.ndarray]] = {}
        self._margins: dict[Similarity, dict[str, Margins]] = {}
        self._similarity: dict[str, dict[str, float]] = {}

    @property
    def has_images(self) -> bool:
        """Whether the tables hold masks of wrong images, which a similarity of errors needs."""
        return self._has_errors and len(self._groups) > 0

    def find_partners(self, source: str) -> np.ndarray | None:
        """Return which originals count for each model of a source (M, K); None: all."""
        if source != ORIGINAL:
            return None
        if self.partners is None:
            return pair_with_others(len(self.tables[ORIGINAL].vectors_MD))
        return self.partners.apart_KK

    def has_similarity(self, source: str) -> bool:
        """Return whether a source has errors per image, and an original to compare them with."""
        return self.has_images and (source != ORIGINAL or len(self.tables[source].vectors_MD) > 1)

    def measure_similarity(self, source: str) -> Mapping[str, float]:
        """Return `core.evaluation.metrics.measure_similarity` of a source to the originals, or nothing without any."""
        if not self.has_similarity(source):
            return {}
        if source not in self._similarity:
            wrong, originals = (self.tables[each].scores["test"].require_wrong() for each in (source, ORIGINAL))
            self._similarity[source] = measure_similarity(wrong, originals, self.find_partners(source))
        return self._similarity[source]

    def varies(self, *sources: str) -> bool:
        """Return whether the primary metric has an interval: whether any source has models or images to resample."""
        return self._has_influence or any(len(self.tables[source].vectors_MD) > 1 for source in sources)

    def draw_accuracy(self, source: str) -> np.ndarray:
        """Return draws of the mean of the primary metric on test (R,)."""
        if "accuracy" not in self._cache:
            groups = self._groups if self._has_influence else Groups.index(0)
            self._cache["accuracy"] = self._draw(
                {
                    name: measure_accuracy_margins(table.scores["test"], groups, self._get_block_length(name))
                    for name, table in self.tables.items()
                }
            )
        return self._cache["accuracy"][source]

    def draw_similarity(self, source: str, similarity: Similarity) -> np.ndarray:
        """Return draws of the mean largest similarity to the originals (R,), compared as in `find_partners`.

        All measures of similarity share the resampled images and models.

        Raises:
            ValueError: The tables hold no masks of wrong images.
        """
        name = similarity.metric.name
        if name not in self._cache:
            self._cache[name] = self._draw(self.measure_margins(similarity))
        return self._cache[name][source]

    def measure_margins(self, similarity: Similarity) -> Mapping[str, Margins]:
        """Return the margins of the largest similarity by source, without those of a single original."""
        if similarity not in self._margins:
            wrong = {name: table.scores["test"].require_wrong() for name, table in self.tables.items()}
            self._margins[similarity] = {
                name: measure_similarity_margins(
                    wrong_MN,
                    wrong[ORIGINAL],
                    self._groups,
                    similarity=similarity,
                    block_length=self._get_block_length(name),
                    apart_MK=self.find_partners(name),
                )
                for name, wrong_MN in wrong.items()
                if self.has_similarity(name)
            }
        return self._margins[similarity]

    def _get_block_length(self, source: str) -> int:
        return max(1, min(self.block_lengths.get(source, 1), len(self.tables[source].vectors_MD) // 2))

    def _draw(self, margins: Mapping[str, Margins]) -> dict[str, np.ndarray]:
        """Return draws of the mean by source, for all sources at once, because counting images takes long."""
        drawn = {source: self._draw_models(source, each) for source, each in margins.items()}
        groups_SG = np.stack([each.groups_G for each in margins.values()])
        if groups_SG.size:
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
