"""Bootstrap intervals: closed forms, coverage, pairing, groups, blocks, and decisions that agree with intervals."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.signal import lfilter
from scipy.stats import norm, t

from core.evaluation.decisions import find_least_p_of_accuracy
from core.evaluation.intervals import (
    Bootstrap,
    control_false_discoveries,
    percentile_interval,
    two_sided_p_value,
)
from core.evaluation.margins import IOU, RELATIVE_KAPPA
from core.evaluation.metrics import error_consistency, max_iou, pair_with_others
from core.evaluation.scores import ACCURACY, Metric, Scores, ScoreTable


def table(source, wrong_MN, groups_N=None) -> ScoreTable:
    wrong_MN = np.atleast_2d(np.asarray(wrong_MN, dtype=bool))
    accuracy_M = 1 - wrong_MN.mean(axis=1)
    return ScoreTable(
        source,
        np.zeros((len(wrong_MN), 2), np.float32),
        {"test": Scores(accuracy_M, 1 - accuracy_M, wrong_MN, groups_N=groups_N)},
        "id",
        0.0,
    )


def without_images(score_table) -> ScoreTable:
    return replace(score_table, scores={"test": replace(score_table.scores["test"], wrong_MN=None)})


MEASURES = (None, IOU, RELATIVE_KAPPA)  # None stands for the accuracy.


def draw(bootstrap, measure, source):
    """Return the draws of one measure of a source."""
    return bootstrap.draw_accuracy(source) if measure is None else bootstrap.draw_similarity(source, measure)


def named(*tables) -> dict[str, ScoreTable]:
    return {each.source: each for each in tables}


@pytest.fixture
def random():
    return np.random.default_rng(0)


def test_the_interval_cuts_equal_tails():
    assert percentile_interval(np.arange(999.0)) == [24, 974]  # the 25th smallest and the 25th largest draw
    assert percentile_interval(np.arange(999.0), level=0.5) == [249, 749]
    assert percentile_interval(np.arange(39.0)) == [0, 38] and percentile_interval(np.arange(38.0)) == [-np.inf, np.inf]


def test_p_values_count_the_rarer_side_and_zeros_on_both():
    assert two_sided_p_value(np.arange(1.0, 1000)) == 2 / 1000 == two_sided_p_value(-np.arange(1.0, 1000))
    assert two_sided_p_value(np.arange(999.0) - 24) == 2 * 26 / 1000
    assert two_sided_p_value(np.zeros(999)) == 1 and two_sided_p_value(np.array([-1.0, 1])) == 1


def test_the_procedure_of_benjamini_and_hochberg_is_followed():
    p_values = np.array([0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262,
                         0.5719, 0.6528, 0.7590, 1.0])  # fmt: skip
    decided, level = control_false_discoveries(p_values)  # the example of their section 3.2, which rejects four
    assert decided.tolist() == [True] * 4 + [False] * 11 and level == pytest.approx(1 - 0.05 * 4 / 15)
    decided, level = control_false_discoveries(p_values[::-1][:9])
    assert not decided.any() and level == pytest.approx(1 - 0.05 / 9)
    assert control_false_discoveries(np.array([0.03, 0.05]))[0].all(), "the second allows the first"
    decided, level = control_false_discoveries(np.array([]))
    assert len(decided) == 0 and level == 0.95


@pytest.mark.parametrize("draws", [39, 199, 500, 999])
def test_decisions_and_intervals_agree(random, draws):
    """Rounded draws have ties, zeros, and p-values that equal their limits."""
    num_decided = 0
    for _ in range(300):
        m = random.integers(1, 25)
        centers_m = random.choice([0, 0.8, 1.6, 3.2], size=m) * random.choice([-1, 1], size=m)
        draws_mR = (centers_m[:, None] + random.normal(size=(m, draws))).round(1)
        decided, level = control_false_discoveries(np.array([two_sided_p_value(draws_R) for draws_R in draws_mR]))
        ends = [percentile_interval(draws_R, level) for draws_R in draws_mR]
        assert decided.tolist() == [low > 0 or high < 0 for low, high in ends]
        num_decided += decided.sum()
    assert num_decided > 0


@pytest.mark.parametrize("draws", [99, 999, 10_000])
def test_an_interval_excludes_zero_exactly_where_the_p_value_reaches_its_limit(draws):
    """The number of draws above 0 goes through all values, so some p-values equal the limit."""
    steps = np.arange(1.0, draws + 1)
    for m in (1, 3, 20):
        level = 1 - 0.05 / m
        for below in range(draws // 30):
            low, _ = percentile_interval(steps - below, level)
            assert (low > 0) == (two_sided_p_value(steps - below) <= (0.05 / m) * (1 + 1e-9))


def test_the_spread_over_images_alone_is_binomial():
    draws_R = Bootstrap(named(table("original", np.arange(400) < 100))).draw_accuracy("original")
    assert draws_R.mean() == pytest.approx(0.75, abs=0.002)
    assert draws_R.std() == pytest.approx(np.sqrt(0.75 * 0.25 / 400), rel=0.05)


def test_the_spread_over_models_alone_is_the_standard_error(random):
    plain = without_images(table("original", random.random((50, 30)) < 0.4))
    draws_R, accuracy_M = Bootstrap(named(plain)).draw_accuracy("original"), plain.scores["test"].accuracy_M
    assert draws_R.mean() == pytest.approx(accuracy_M.mean(), abs=0.003)
    # Student's t with f degrees of freedom has the variance f / (f − 2).
    assert draws_R.std() == pytest.approx(accuracy_M.std(ddof=1) / np.sqrt(50) * np.sqrt(49 / 47), rel=0.02)


@pytest.mark.parametrize("num_models, repeats", [(2, 150), (5, 300)])
def test_the_interval_of_few_models_misses_no_more_often_than_that_of_many(random, num_models, repeats):
    """Without the width of Student's t, 95% intervals of 5 models miss 14% and those of 2 models 39%."""

    def make(random, repeat):
        accuracy_M = random.normal(size=num_models)
        scores = Scores(accuracy_M, accuracy_M, None)
        tables = {"original": replace(table("original", np.zeros((num_models, 1))), scores={"test": scores})}
        return percentile_interval(Bootstrap(tables, seed=repeat, draws=999).draw_accuracy("original"))

    assert 0.91 <= coverage(random, make, 0.0, repeats) <= 0.99


@pytest.mark.parametrize("level", [0.95, 0.9985])
def test_the_interval_of_ten_models_has_the_width_of_a_t_interval_at_any_level(level):
    accuracy_M = norm.ppf((np.arange(10) + 0.5) / 10)
    tables = {
        "original": replace(table("original", np.zeros((10, 1))), scores={"test": Scores(accuracy_M, accuracy_M, None)})
    }
    low, high = percentile_interval(Bootstrap(tables, draws=20_000).draw_accuracy("original"), level)
    half = t.ppf((1 + level) / 2, 9) * accuracy_M.std(ddof=1) / np.sqrt(10)
    assert (high - low) / 2 == pytest.approx(half, rel=0.1 if level > 0.99 else 0.04)


def test_luck_of_shared_images_does_not_average_out_over_models():
    """A thousand identical models say no more about other images than one of them does."""
    wrong_N = np.arange(200) < 60
    one, many = (
        Bootstrap(named(table("original", [wrong_N] * count))).draw_accuracy("original").std() for count in (1, 1000)
    )
    assert many == pytest.approx(one, rel=1e-6)


def crossed(random, num_models, num_images):
    """Draw masks of wrong images with easy and hard images, good and bad models, and a mean accuracy of 0.7."""
    hard_N, bad_M = 0.25 * random.choice([-1, 1], size=num_images), 0.04 * random.choice([-1, 1], size=num_models)
    return random.random((num_models, num_images)) < 0.3 + hard_N + bad_M[:, None]


def coverage(random, make, truth, repeats=200):
    inside = 0
    for repeat in range(repeats):
        low, high = make(random, repeat)
        inside += low <= truth <= high
    return inside / repeats


def test_the_interval_covers_the_true_mean_at_its_level(random):
    def both(random, repeat):
        tables = named(table("original", crossed(random, 20, 300)))
        return percentile_interval(Bootstrap(tables, seed=repeat, draws=200).draw_accuracy("original"))

    def models_only(random, repeat):
        return percentile_interval(
            Bootstrap(
                named(without_images(table("original", crossed(random, 20, 300)))), seed=repeat, draws=200
            ).draw_accuracy("original")
        )

    assert 0.88 <= coverage(random, both, 0.7) <= 0.99
    assert coverage(random, models_only, 0.7) < 0.80


def test_the_interval_of_a_difference_covers_the_true_difference(random):
    def make(random, repeat):
        wrong = crossed(random, 45, 300)  # Both sources share the images, and their true difference is 0.
        bootstrap = Bootstrap(named(table("original", wrong[:20]), table("p_diff", wrong[20:])), seed=repeat, draws=200)
        return percentile_interval(bootstrap.draw_accuracy("p_diff") - bootstrap.draw_accuracy("original"))

    assert 0.90 <= coverage(random, make, 0.0) <= 0.99


def test_the_interval_of_a_difference_of_ious_covers_the_true_difference(random):
    """Sources from one population have the same true mean maximum IoU."""

    def make(random, repeat):
        wrong = crossed(random, 60, 300)
        bootstrap = Bootstrap(
            named(
                *(
                    table(source, wrong[20 * i : 20 * i + 20])
                    for i, source in enumerate(("original", "p_diff", "gaussian"))
                )
            ),
            seed=repeat,
            draws=200,
        )
        return percentile_interval(
            bootstrap.draw_similarity("p_diff", IOU) - bootstrap.draw_similarity("gaussian", IOU)
        )

    assert coverage(random, make, 0.0) >= 0.93


def repeating(random, num_originals=8, num_models=20, num_images=300):
    """Draw masks of originals, and of two sources whose models repeat half of the errors of one original each."""
    original_KN = random.random((num_originals, num_images)) < random.choice([0.1, 0.5], size=num_images)

    def draw_source():
        repeated_MN = original_KN[random.integers(num_originals, size=num_models)]
        kept_MN = random.random((num_models, num_images)) < random.uniform(0.5, 0.7, size=(num_models, 1))
        return repeated_MN & kept_MN | (random.random((num_models, num_images)) < 0.05)

    return original_KN, draw_source(), draw_source()


@pytest.mark.parametrize("similarity", [IOU, RELATIVE_KAPPA], ids=lambda each: each.metric.name)
def test_the_interval_of_a_difference_of_similarities_covers_the_true_difference(random, similarity):
    """Both sources come from one population, and the most similar original of each model stands out."""

    def make(random, repeat):
        masks = zip(("original", "p_diff", "gaussian"), repeating(random), strict=True)
        bootstrap = Bootstrap(named(*(table(*each) for each in masks)), seed=repeat, draws=200)
        draws = (bootstrap.draw_similarity(source, similarity) for source in ("p_diff", "gaussian"))
        return percentile_interval(next(draws) - next(draws))

    assert 0.90 <= coverage(random, make, 0.0, repeats=300) <= 0.99


def test_errors_that_all_models_of_a_source_share_widen_the_interval(random):
    """100 models that fail together are one sample; an interval over models alone would exclude the true mean."""

    def make(with_images):
        def build(random, repeat):
            wrong = np.repeat(random.random((2, 300)) < 0.3, 100, axis=0) ^ (random.random((200, 300)) < 0.02)
            tables = [table("original", wrong[:100]), table("p_diff", wrong[100:])]
            bootstrap = Bootstrap(
                named(*(tables if with_images else map(without_images, tables))), seed=repeat, draws=200
            )
            return percentile_interval(bootstrap.draw_accuracy("p_diff") - bootstrap.draw_accuracy("original"))

        return build

    assert (
        0.88 <= coverage(random, make(True), 0.0, repeats=100) <= 1
        and coverage(random, make(False), 0.0, repeats=100) < 0.3
    )


def test_a_difference_is_paired_by_image(random):
    """Accuracies of two sources that differ in one image move together, so their difference hardly moves."""
    wrong_N = np.arange(300) < 90
    other_N = wrong_N.copy()
    other_N[0] = False
    bootstrap = Bootstrap(named(table("original", wrong_N), table("ensemble", other_N)))
    difference_R = bootstrap.draw_accuracy("ensemble") - bootstrap.draw_accuracy("original")
    assert difference_R.std() < bootstrap.draw_accuracy("original").std() / 5
    assert difference_R.mean() == pytest.approx(1 / 300, rel=0.1)


def test_one_model_compared_with_itself_has_no_difference():
    bootstrap = Bootstrap(named(*(table(source, np.arange(50) < 9) for source in ("original", "ensemble"))))
    assert percentile_interval(bootstrap.draw_accuracy("ensemble") - bootstrap.draw_accuracy("original")) == [0, 0]


def test_copies_of_one_model_are_as_good_as_the_model(random):
    """Sums of 7 and of 1 equal numbers round differently, which must not decide a comparison."""
    wrong_N = random.random(331) < 0.3
    bootstrap = Bootstrap(named(table("original", wrong_N), table("p_diff", [wrong_N] * 7)))
    difference_R = bootstrap.draw_accuracy("p_diff") - bootstrap.draw_accuracy("original")
    assert two_sided_p_value(difference_R) == 1 and percentile_interval(difference_R, 0.99) == [0, 0]


def test_models_of_two_sources_are_drawn_independently(random):
    models = random.random((30, 100)) < random.random((30, 1))
    plain = named(*(without_images(table(source, models)) for source in ("original", "p_diff")))
    bootstrap = Bootstrap(plain)
    assert abs(np.corrcoef(bootstrap.draw_accuracy("original"), bootstrap.draw_accuracy("p_diff"))[0, 1]) < 0.1


def test_draws_depend_only_on_the_seed_and_the_source(random):
    every = named(*(table(source, random.random((4, 60)) < 0.3) for source in ("original", "p_diff", "gaussian")))
    first, fewer = (
        Bootstrap(every, seed=3),
        Bootstrap({source: every[source] for source in ("original", "p_diff")}, seed=3),
    )
    first.draw_accuracy("gaussian")
    for measure in MEASURES:
        draws_R = draw(first, measure, "p_diff")
        np.testing.assert_allclose(draws_R, draw(fewer, measure, "p_diff"), rtol=0, atol=2e-12)
        assert not np.array_equal(draws_R, draw(Bootstrap(every, seed=4), measure, "p_diff"))


def test_draws_of_a_similarity_are_centered_on_it(random):
    original, generated = (table(source, random.random((12, 500)) < 0.3) for source in ("original", "p_diff"))
    bootstrap, reference_KN = Bootstrap(named(original, generated)), original.scores["test"].wrong_MN
    for source, wrong_MN, apart in (
        ("p_diff", generated.scores["test"].wrong_MN, None),
        ("original", reference_KN, pair_with_others(len(reference_KN))),
    ):
        for similarity, expected_M in (
            (IOU, max_iou(wrong_MN, reference_KN, apart)),
            (RELATIVE_KAPPA, error_consistency(wrong_MN, reference_KN, apart).relative_M),
        ):
            draws_R = bootstrap.draw_similarity(source, similarity)
            assert draws_R.mean() == pytest.approx(expected_M.mean(), abs=0.003)
            low, high = percentile_interval(draws_R)
            assert low < expected_M.mean() < high


def test_measures_of_similarity_share_the_resampled_images_and_models(random):
    """At equal numbers of errors, the relative κ is nearly linear in the IoU, so its draws nearly follow the IoU's."""
    wrong_MN = random.permuted(np.arange(300) < 90 * np.ones((24, 1)), axis=1)
    bootstrap = Bootstrap(named(table("original", wrong_MN[:12]), table("p_diff", wrong_MN[12:])))
    iou_R, kappa_R = (bootstrap.draw_similarity("p_diff", similarity) for similarity in (IOU, RELATIVE_KAPPA))
    assert np.corrcoef(iou_R, kappa_R)[0, 1] > 0.7


def test_a_copy_has_a_similarity_of_one_on_any_images(random):
    wrong_KN = random.random((5, 40)) < 0.2
    wrong_KN[0] = False  # Two models without errors have an IoU of 1.
    bootstrap = Bootstrap(named(table("original", wrong_KN), table("p_diff", wrong_KN)))
    for similarity in (IOU, RELATIVE_KAPPA):
        assert (bootstrap.draw_similarity("p_diff", similarity) == 1).all()
        assert (bootstrap.draw_similarity("original", similarity) < 1).all()


def test_the_iou_of_two_models_has_the_spread_of_a_binomial_share():
    wrong_N, other_N = (
        np.arange(1000) < 300,
        (np.arange(1000) >= 100) & (np.arange(1000) < 400),
    )  # Both models err on 200 images, and 400 images are wrong for at least one.
    draws_R = Bootstrap(named(table("original", wrong_N), table("p_diff", other_N))).draw_similarity("p_diff", IOU)
    assert draws_R.mean() == pytest.approx(0.5, abs=0.005)
    assert draws_R.std() == pytest.approx(np.sqrt(0.5 * 0.5 / 400), rel=0.06)


def test_sources_that_cannot_be_resampled_are_recognized():
    one = named(*(without_images(table(source, np.arange(9) < 3)) for source in ("original", "ensemble")))
    assert not Bootstrap(one).varies("original", "ensemble") and not Bootstrap(one).has_images
    assert Bootstrap(named(table("original", np.arange(9) < 3))).varies("original")
    assert Bootstrap(one | named(without_images(table("p_diff", np.zeros((2, 9)))))).varies("original", "p_diff")


def test_sources_with_different_images_are_refused():
    with pytest.raises(ValueError, match="'p_diff': 8"):
        Bootstrap(named(table("original", np.arange(9) < 3), table("p_diff", np.arange(8) < 3)))
    with pytest.raises(ValueError, match="'p_diff': None"):
        Bootstrap(named(table("original", np.arange(9) < 3), without_images(table("p_diff", np.arange(9) < 3))))


def test_sources_with_different_groups_are_refused():
    wrong_N, pairs = np.arange(8) < 3, np.repeat(np.arange(4), 2)
    with pytest.raises(ValueError, match="must be in the same groups"):
        Bootstrap(named(table("original", wrong_N, pairs), table("p_diff", wrong_N)))


def test_groups_of_unequal_sizes_weigh_by_their_items(random):
    """The standard error of a ratio is that of Σ (wrong items − share · items) over groups."""
    sizes_G = random.integers(1, 9, size=400)
    wrong_N = np.repeat(random.random(400) < 0.2 + 0.06 * sizes_G, sizes_G)  # Large groups are hard.
    draws_R = Bootstrap(named(table("original", wrong_N, np.repeat(np.arange(400), sizes_G)))).draw_accuracy("original")
    wrong_G = np.add.reduceat(wrong_N, np.cumsum(sizes_G) - sizes_G, dtype=np.int64)
    expected = np.sqrt(((wrong_G - wrong_N.mean() * sizes_G) ** 2).sum()) / len(wrong_N)
    assert draws_R.mean() == pytest.approx(1 - wrong_N.mean(), abs=0.002)
    assert draws_R.std() == pytest.approx(expected, rel=0.03)


def test_the_order_of_grouped_images_does_not_matter(random):
    wrong_MN, groups_N, order = random.random((4, 90)) < 0.3, np.repeat(np.arange(30), 3), random.permutation(90)
    first, second = (
        Bootstrap(named(table("original", wrong_MN[:, items], groups_N[items]))) for items in (np.arange(90), order)
    )
    for measure in MEASURES:
        draws_R = draw(first, measure, "original")
        np.testing.assert_allclose(draws_R, draw(second, measure, "original"), rtol=0, atol=2e-12)


def in_triples(random, num_models=5):
    """Draw masks of 100 images in three versions, which share most of their difficulty. The mean accuracy is 0.5."""
    hard_N = np.repeat(random.normal(size=100), 3) + 0.3 * random.normal(size=300)
    return hard_N + 0.3 * random.normal(size=(num_models, 300)) > 0


@pytest.mark.parametrize("grouped, low, high", [(True, 0.90, 0.99), (False, 0.5, 0.85)])
def test_an_interval_covers_only_if_versions_of_an_image_are_resampled_together(random, grouped, low, high):
    groups_N = np.repeat(np.arange(100), 3) if grouped else None

    def make(random, repeat):
        tables = named(table("original", in_triples(random), groups_N))
        return percentile_interval(Bootstrap(tables, seed=repeat, draws=200).draw_accuracy("original"))

    assert low <= coverage(random, make, 0.5) <= high


def walk(random, num_models=200, memory=0.8):
    """Draw masks of the models of a walk, each of which keeps most of its quality and of its chance errors."""

    def drift(*shape):
        steps = np.sqrt(1 - memory**2) * random.normal(size=(num_models + 50, *shape))
        return lfilter([1], [1, -memory], steps, axis=0)[50:]

    return random.normal(size=300) + drift(1) + drift(300) > 0


@pytest.mark.parametrize("block_length, low, high", [(20, 0.88, 0.99), (1, 0.5, 0.84)])
def test_an_interval_covers_only_if_steps_of_a_walk_are_resampled_in_blocks(random, block_length, low, high):
    def make(random, repeat):
        bootstrap = Bootstrap(
            named(table("original", walk(random))), block_lengths={"original": block_length}, seed=repeat, draws=200
        )
        return percentile_interval(bootstrap.draw_accuracy("original"))

    assert low <= coverage(random, make, 0.5) <= high


def test_a_block_is_at_most_half_of_the_walk(random):
    """One block of all models would show no spread at all."""
    plain = named(without_images(table("original", walk(random))))
    half, whole = (
        Bootstrap(plain, block_lengths={"original": length}).draw_accuracy("original") for length in (100, 200)
    )
    np.testing.assert_array_equal(half, whole)
    assert half.std() > 0


def test_the_spread_of_block_means_is_that_of_all_circular_blocks(random):
    """With 20 blocks of 10 models, the variance is that of one block over 20 (1 − 10 / 200), times 19 / 17."""
    plain = without_images(table("original", walk(random, 200)))
    accuracy_M = plain.scores["test"].accuracy_M
    blocks = [np.roll(accuracy_M, -start)[:10].mean() for start in range(200)]
    draws_R = Bootstrap(named(plain), block_lengths={"original": 10}).draw_accuracy("original")
    expected = np.std(blocks) / np.sqrt(20) / np.sqrt(1 - 10 / 200) * np.sqrt(19 / 17)
    assert draws_R.std() == pytest.approx(expected, rel=0.03)


def with_influence(score_table, influence_MN=None, metric=ACCURACY) -> ScoreTable:
    """Return a table without masks, whose influences are given; by default those of its accuracy."""
    scores = score_table.scores["test"]
    if influence_MN is None:
        influence_MN = (~scores.wrong_MN).astype(np.float32)
    accuracy_M = influence_MN.mean(axis=1, dtype=np.float64)
    changed = replace(scores, accuracy_M=accuracy_M, wrong_MN=None, influence_MN=influence_MN, metric=metric)
    return replace(score_table, scores={"test": changed})


@pytest.mark.parametrize("groups_N", [None, np.arange(60) // 3])
def test_the_influence_of_a_share_of_right_images_gives_the_intervals_of_accuracy(random, groups_N):
    tables = named(
        table("original", random.random((6, 60)) < 0.2, groups_N),
        table("ensemble", random.random((1, 60)) < 0.3, groups_N),
    )
    plain = Bootstrap(tables, draws=500, block_lengths={"original": 2})
    given = {source: with_influence(each) for source, each in tables.items()}
    influenced = Bootstrap(given, draws=500, block_lengths={"original": 2})
    assert not influenced.has_images and influenced.varies("ensemble") and not influenced.measure_similarity("ensemble")
    for source in tables:
        np.testing.assert_array_equal(influenced.draw_accuracy(source), plain.draw_accuracy(source))
    one = [each["ensemble"].scores["test"] for each in (tables, given)]
    other = [each["original"].scores["test"] for each in (tables, given)]
    least = [find_least_p_of_accuracy(first, second) for first, second in zip(one, other, strict=True)]
    assert least[1] >= least[0] > 0, "influences may be small where sources are alike, which must not count as evidence"


def test_the_interval_of_an_rmse_covers_the_true_one():
    random, hits = np.random.default_rng(3), 0
    rmse = Metric("RMSE", "meters", higher_is_better=False)
    for seed in range(300):
        squares_N = random.normal(0, 2, 150) ** 2
        value = squares_N.mean() ** 0.5
        influence_MN = (value + (squares_N - value**2) / (2 * value))[None].astype(np.float32)
        tables = named(with_influence(table("original", np.zeros((1, 150))), influence_MN, rmse))
        low, high = percentile_interval(Bootstrap(tables, draws=400, seed=seed).draw_accuracy("original"))
        hits += low <= 2 <= high
    assert 0.90 <= hits / 300 <= 0.99


def test_errors_that_do_not_add_up_to_the_metric_are_not_resampled_for_it():
    scores = table("original", [np.arange(8) < 3]).scores["test"]
    other = replace(scores, accuracy_M=np.array([5.0]), metric=Metric("AP", "share", higher_is_better=True))
    assert scores.has_influence and not other.has_influence
    bootstrap = Bootstrap({"original": replace(table("original", [[0]]), scores={"test": other})})
    assert bootstrap.has_images and not bootstrap.varies("original")
    assert set(bootstrap.draw_accuracy("original")) == {5.0}
    with pytest.raises(ValueError, match="influence_MN"):
        other.read_influence(np.arange(2))


def test_only_some_influences_are_refused():
    plain, given = table("original", np.arange(9) < 3), table("p_diff", np.arange(9) < 3)
    influence_MN = np.ones((1, 9), np.float32)
    given = replace(given, scores={"test": replace(given.scores["test"], influence_MN=influence_MN)})
    with pytest.raises(ValueError, match="'original': None"):
        Bootstrap(named(plain, given))
