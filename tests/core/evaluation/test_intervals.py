"""Bootstrap intervals: closed forms, coverage, pairing, and resampling."""

from dataclasses import replace

import numpy as np
import pytest

from core.evaluation import intervals
from core.evaluation.intervals import (
    Bootstrap,
    compute_accuracy_margins,
    compute_max_iou_margins,
    draw_counts,
    percentile_interval,
)
from core.evaluation.metrics import max_iou
from core.evaluation.scores import Scores, ScoreTable


def table(source, wrong_MN) -> ScoreTable:
    wrong_MN = np.atleast_2d(np.asarray(wrong_MN, dtype=bool))
    accuracy_M = 1 - wrong_MN.mean(axis=1)
    return ScoreTable(
        source,
        np.zeros((len(wrong_MN), 2), np.float32),
        {"test": Scores(accuracy_M, 1 - accuracy_M, wrong_MN)},
        "id",
        0.0,
    )


def without_images(score_table) -> ScoreTable:
    return replace(score_table, scores={"test": replace(score_table.scores["test"], wrong_MN=None)})


def named(*tables) -> dict[str, ScoreTable]:
    return {each.source: each for each in tables}


@pytest.fixture
def random():
    return np.random.default_rng(0)


def test_counts_follow_drawing_with_replacement():
    counts = draw_counts(10, 20_000, seed=0)
    assert (counts.sum(axis=1) == 10).all()
    covariance = np.cov(counts.T)  # multinomial: variance n p (1 − p), covariance −n p²
    np.testing.assert_allclose(counts.mean(axis=0), np.ones(10), atol=0.03)
    np.testing.assert_allclose(np.diag(covariance), np.full(10, 0.9), atol=0.05)
    np.testing.assert_allclose(covariance[np.triu_indices(10, 1)], np.full(45, -0.1), atol=0.04)


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_margins_of_the_iou_do_not_depend_on_the_size_of_blocks(random, rows, monkeypatch):
    wrong_MN, reference_KN = random.random((7, 60)) < 0.5, random.random((4, 60)) < 0.5
    once = compute_max_iou_margins(wrong_MN, reference_KN, same=False)
    monkeypatch.setattr(intervals, "ROWS", rows)
    again = compute_max_iou_margins(wrong_MN, reference_KN, same=False)
    np.testing.assert_allclose(again.images_N, once.images_N, atol=1e-6)
    assert again.squares == pytest.approx(once.squares, rel=1e-6)


def test_the_margin_of_an_image_is_the_derivative_of_the_iou(random):
    wrong_MN, reference_KN = random.random((1, 60)) < 0.5, random.random((1, 60)) < 0.5
    margins = compute_max_iou_margins(wrong_MN, reference_KN, same=False)
    both_N, either_N = (wrong_MN & reference_KN)[0], (wrong_MN | reference_KN)[0]
    for image in range(60):
        weights_N = np.ones(60)
        weights_N[image] += 1e-6
        moved = (weights_N @ both_N / (weights_N @ either_N) - both_N.sum() / either_N.sum()) / 1e-6
        assert (margins.images_N[image] - margins.models_M[0]) / 60 == pytest.approx(moved, abs=1e-5)


def test_margins_of_the_accuracy_are_row_and_column_means():
    margins = compute_accuracy_margins(np.array([0.0]), np.array([[1, 0, 0, 0], [1, 1, 0, 0]], dtype=bool))
    assert (
        margins.models_M.tolist() == [0.75, 0.5]
        and margins.images_N.tolist() == [0, 0.5, 1, 1]
        and margins.squares == 5
    )


def test_models_of_equal_quality_have_no_variance_between_models(random):
    """Chance alone spreads accuracies of equal models, so their share is near 0. Unequal models have a share near 1."""
    alike, unlike = random.random((200, 400)) < 0.3, random.random((200, 400)) < random.uniform(0.1, 0.9, size=(200, 1))
    shares = [compute_accuracy_margins(1 - wrong_MN.mean(axis=1), wrong_MN).model_share for wrong_MN in (alike, unlike)]
    assert shares[0] < 0.25 and shares[1] > 0.98


def test_the_interval_cuts_equal_tails():
    assert percentile_interval(np.arange(1001.0)) == pytest.approx([25, 975])
    assert percentile_interval(np.arange(1001.0), level=0.5) == pytest.approx([250, 750])


def test_the_spread_over_images_alone_is_binomial():
    draws_R = Bootstrap(named(table("original", np.arange(400) < 100))).draw_accuracy("original")
    assert draws_R.mean() == pytest.approx(0.75, abs=0.002)
    assert draws_R.std() == pytest.approx(np.sqrt(0.75 * 0.25 / 400), rel=0.05)


def test_the_spread_over_models_alone_is_the_standard_error(random):
    plain = without_images(table("original", random.random((50, 30)) < 0.4))
    draws_R, accuracy_M = Bootstrap(named(plain)).draw_accuracy("original"), plain.scores["test"].accuracy_M
    assert draws_R.mean() == pytest.approx(accuracy_M.mean(), abs=0.003)
    assert draws_R.std() == pytest.approx(accuracy_M.std() / np.sqrt(50), rel=0.05)


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
        return percentile_interval(
            Bootstrap(named(table("original", crossed(random, 20, 300))), repeat, draws=200).draw_accuracy("original")
        )

    def models_only(random, repeat):
        return percentile_interval(
            Bootstrap(
                named(without_images(table("original", crossed(random, 20, 300)))), repeat, draws=200
            ).draw_accuracy("original")
        )

    assert 0.88 <= coverage(random, both, 0.7) <= 0.99
    assert coverage(random, models_only, 0.7) < 0.80


def test_the_interval_of_a_difference_covers_the_true_difference(random):
    def make(random, repeat):
        wrong = crossed(random, 45, 300)  # Both sources share the images, and their true difference is 0.
        bootstrap = Bootstrap(named(table("original", wrong[:20]), table("p_diff", wrong[20:])), repeat, draws=200)
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
            repeat,
            draws=200,
        )
        return percentile_interval(bootstrap.draw_max_iou("p_diff") - bootstrap.draw_max_iou("gaussian"))

    assert coverage(random, make, 0.0) >= 0.93


def test_errors_that_all_models_of_a_source_share_widen_the_interval(random):
    """100 models that fail together are one sample; an interval over models alone would exclude the true mean."""

    def make(with_images):
        def build(random, repeat):
            wrong = np.repeat(random.random((2, 300)) < 0.3, 100, axis=0) ^ (random.random((200, 300)) < 0.02)
            tables = [table("original", wrong[:100]), table("p_diff", wrong[100:])]
            bootstrap = Bootstrap(named(*(tables if with_images else map(without_images, tables))), repeat, draws=200)
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
    for measure in ("draw_accuracy", "draw_max_iou"):
        draws_R = getattr(first, measure)("p_diff")
        np.testing.assert_array_equal(draws_R, getattr(fewer, measure)("p_diff"))
        assert not np.array_equal(draws_R, getattr(Bootstrap(every, seed=4), measure)("p_diff"))


def test_draws_of_the_maximum_iou_are_centered_on_it(random):
    original, generated = (table(source, random.random((12, 500)) < 0.3) for source in ("original", "p_diff"))
    bootstrap = Bootstrap(named(original, generated))
    reference_KN = original.scores["test"].wrong_MN
    for source, expected_M in {
        "p_diff": max_iou(generated.scores["test"].wrong_MN, reference_KN),
        "original": max_iou(reference_KN, reference_KN, same=True),
    }.items():
        assert bootstrap.draw_max_iou(source).mean() == pytest.approx(expected_M.mean(), abs=0.003)
        low, high = percentile_interval(bootstrap.draw_max_iou(source))
        assert low < expected_M.mean() < high


def test_a_copy_has_a_maximum_iou_of_one_on_any_images(random):
    wrong_KN = random.random((5, 40)) < 0.2
    wrong_KN[0] = False  # Two models without errors have an IoU of 1.
    bootstrap = Bootstrap(named(table("original", wrong_KN), table("p_diff", wrong_KN)))
    assert (bootstrap.draw_max_iou("p_diff") == 1).all() and (bootstrap.draw_max_iou("original") < 1).all()


def test_the_iou_of_two_models_has_the_spread_of_a_binomial_share():
    wrong_N, other_N = (
        np.arange(1000) < 300,
        (np.arange(1000) >= 100) & (np.arange(1000) < 400),
    )  # Both models err on 200 images, and 400 images are wrong for at least one.
    draws_R = Bootstrap(named(table("original", wrong_N), table("p_diff", other_N))).draw_max_iou("p_diff")
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
