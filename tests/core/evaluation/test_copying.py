"""Planted copiers, averagers, honest and collapsed samplers, told apart on three kinds of originals."""

import math
from dataclasses import dataclass

import numpy as np
import pytest

from core.evaluation.copying import Behavior, measure_closeness, measure_outside_span
from core.evaluation.metrics import Spacing, l2_matrix, min_l2, near_copies
from core.evaluation.scores import Scores, ScoreTable
from core.evaluation.walk import autocorrelation_time, measure_autocorrelation
from core.evaluation.yardstick import Origins, are_apart, measure_yardstick, pair_originals

K, H, M, D, N = 200, 25, 40, 300, 400


def make_table(vectors_MD, *, seed=0, source="p_diff", with_wrong=True):
    """Make a table of linear networks, of which each errs on the images that lie on the wrong side of its vector."""
    random = np.random.default_rng(seed)
    images_DN, margin_N = random.normal(size=(vectors_MD.shape[1], N)), random.normal(1.0, 1.0, size=N)
    wrong_MN = vectors_MD @ images_DN / np.sqrt(vectors_MD.shape[1]) + margin_N < 0
    scores = Scores(1 - wrong_MN.mean(axis=1), wrong_MN.mean(axis=1), wrong_MN if with_wrong else None)
    return ScoreTable(source, np.asarray(vectors_MD, np.float32), {"test": scores}, "id", 0.0)


SCALE_D = np.arange(1, D + 1) ** -0.5  # A walk moves mostly in a few directions.


def drift(k, random, start_D):
    """Take k steps from a point, with momentum and a weak pull back, as the last layers of a training do."""
    offset_D, velocity_D, rows = np.zeros(D), np.zeros(D), []
    for _ in range(k):
        velocity_D = 0.85 * velocity_D + 0.06 * SCALE_D * random.normal(size=D) - 0.003 * offset_D
        offset_D = offset_D + velocity_D
        rows.append(start_D + offset_D)
    return np.array(rows)


def wander(k, random, center_D):
    """Take k steps of a stationary walk around a point."""
    offset_D, rows = SCALE_D * random.normal(size=D), []
    for _ in range(k):
        offset_D = 0.95 * offset_D + np.sqrt(1 - 0.95**2) * SCALE_D * random.normal(size=D)
        rows.append(center_D + offset_D)
    return np.array(rows)


def number_steps(steps, training=0):
    """Return origins (K, 2) in one training."""
    return np.stack([np.full(len(steps), training), steps], axis=1)


@dataclass
class World:
    """Originals, held-out checkpoints, their origins, and new draws of the process that made them."""

    original_KD: np.ndarray
    held_out_HD: np.ndarray | None
    origins: Origins | None
    new_MD: np.ndarray

    @property
    def original(self):
        return make_table(self.original_KD, source="original")

    @property
    def yardstick(self):
        held_out = None if self.held_out_HD is None else make_table(self.held_out_HD, source="held_out")
        return measure_yardstick(self.original, held_out, self.origins)

    def measure(self, vectors_MD, **options):
        return measure_closeness(make_table(vectors_MD, **options), self.original, self.yardstick)


def make_world(name, seed=0):
    random = np.random.default_rng(seed)
    if name == "independent":
        vectors = random.normal(size=(K + H + M, D))
        trainings = np.stack([np.arange(K + H), np.full(K + H, 9)], axis=1)
        origins = Origins(trainings[:K], trainings[K:])
        return World(vectors[:K], vectors[K : K + H], origins, vectors[K + H :])
    start_D = random.normal(size=D)
    walk = {"one training": drift, "imported": wander}[name]
    steps_KD = walk(K + 2 * H, random, start_D)
    new_MD = np.concatenate([walk(K, random, start_D)[random.integers(K, size=2)] for _ in range(M // 2)])
    if name == "imported":
        return World(steps_KD[:K], None, None, new_MD)
    steps = np.arange(1, K + 2 * H + 1)
    return World(
        steps_KD[:K], steps_KD[K + H :], Origins(number_steps(steps[:K]), number_steps(steps[K + H :])), new_MD
    )


def plant(behavior, world, seed=1):
    """Return models of a source that behaves in this way."""
    random, original_KD = np.random.default_rng(seed), world.original_KD
    if behavior is Behavior.COPIES:
        copied_MD = original_KD[random.permutation(K)[:M]]
        return copied_MD + 0.05 * copied_MD.std(axis=1, keepdims=True) * random.normal(size=(M, D))
    if behavior is Behavior.AVERAGES:
        return np.stack([original_KD[random.permutation(K)[:16]].mean(axis=0) for _ in range(M)])
    if behavior is Behavior.COLLAPSED:
        return world.new_MD[0] + 0.001 * random.normal(size=(M, D))
    return world.new_MD


WORLDS = ("one training", "independent", "imported")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("behavior", Behavior)
@pytest.mark.parametrize("name", WORLDS)
def test_every_planted_source_is_told_apart(name, behavior, seed):
    world = make_world(name, seed)
    assert world.measure(plant(behavior, world, seed)).behavior is behavior


@pytest.mark.parametrize("name", WORLDS)
def test_the_yardstick_without_held_out_checkpoints_tells_them_apart_too(name):
    world = make_world(name)
    world.held_out_HD = None
    assert not world.yardstick.held_out and world.yardstick.num_models == K
    for behavior in Behavior:
        assert world.measure(plant(behavior, world)).behavior is behavior


@pytest.mark.parametrize("behavior", Behavior)
@pytest.mark.parametrize("name", WORLDS)
def test_weights_alone_tell_them_apart(name, behavior):
    world = make_world(name)
    original = make_table(world.original_KD, source="original", with_wrong=False)
    yardstick = measure_yardstick(original, None, world.origins)
    found = measure_closeness(make_table(plant(behavior, world), with_wrong=False), original, yardstick)
    assert found.behavior is behavior and found.function is None and yardstick.function_low is None


def test_the_distance_of_two_neighboring_steps_misses_the_copier():
    world = make_world("one training")
    copies_MD = plant(Behavior.COPIES, world)
    share = near_copies(min_l2(copies_MD, world.original_KD), Spacing.measure(world.original_KD))
    assert share < 0.1 and world.measure(copies_MD).copies > 0.95


@pytest.mark.parametrize("name", WORLDS)
def test_few_honest_models_lie_below_the_yardstick(name):
    shares = [world.measure(world.new_MD).copies for world in (make_world(name, seed) for seed in range(3))]
    assert np.mean(shares) < 0.2


def test_the_lag_is_half_of_the_autocorrelation_time_in_optimizer_steps():
    world, imported = make_world("one training"), make_world("imported")
    lag = math.ceil(autocorrelation_time(world.original_KD) / 2)
    assert 10 < lag < 40 and world.yardstick.lag == lag
    world.origins = Origins(world.origins.original_K2 * 5, world.origins.held_out_H2 * 5)
    assert world.yardstick.lag == 5 * lag
    assert make_world("independent").yardstick.lag == 0
    assert imported.yardstick.lag == math.ceil(autocorrelation_time(imported.original_KD) / 2)


def test_the_autocorrelation_has_fallen_to_one_over_e_at_the_lag():
    for seed in range(3):
        world = make_world("imported", seed)
        assert 0.2 < measure_autocorrelation(world.original_KD)[world.yardstick.lag] < 0.5


def test_the_order_of_the_rows_does_not_matter_if_their_steps_are_known():
    world = make_world("one training")
    expected, order = world.yardstick, np.random.default_rng(0).permutation(K)
    world.original_KD, world.origins = (
        world.original_KD[order],
        Origins(world.origins.original_K2[order], world.origins.held_out_H2),
    )
    assert world.yardstick.lag == expected.lag
    assert world.yardstick.weights_low == pytest.approx(expected.weights_low)


def test_the_limit_is_the_smaller_one_of_held_out_checkpoints_and_originals():
    world = make_world("one training")
    yardstick, steps = world.yardstick, np.arange(K)
    assert yardstick.held_out and yardstick.num_models == H

    def limit(vectors_HD, steps_H):
        distance_HK = l2_matrix(np.float32(vectors_HD), np.float32(world.original_KD))
        ratios = []
        for row_K, step in zip(distance_HK, steps_H, strict=True):
            far_K = row_K[abs(steps - step) >= yardstick.lag]
            ratios.append(far_K.min() / np.median(far_K))
        return min(np.quantile(ratios, 0.05), 0.6 * np.median(ratios))

    limits = [limit(world.original_KD, steps), limit(world.held_out_HD, np.arange(K + H, K + 2 * H))]
    assert yardstick.weights_low == pytest.approx(min(limits))


def test_fewer_than_ten_held_out_checkpoints_are_not_measured():
    world = make_world("independent")
    world.held_out_HD = world.held_out_HD[:9]
    world.origins = Origins(world.origins.original_K2, world.origins.held_out_H2[:9])
    assert not world.yardstick.held_out and world.yardstick.num_models == K


def test_origins_of_other_rows_are_refused():
    world = make_world("independent")
    world.origins = Origins(world.origins.original_K2, world.origins.held_out_H2[:3])
    with pytest.raises(ValueError):
        _ = world.yardstick


def test_which_checkpoints_are_far_enough_apart():
    origin_K2 = np.array([[0, 1], [0, 2], [0, 3], [1, 2]])
    assert are_apart(origin_K2[:1], origin_K2, 2).tolist() == [[False, False, True, True]]
    assert are_apart(origin_K2, origin_K2, 0).tolist() == (~np.eye(4, dtype=bool)).tolist()


def test_walks_are_known_by_the_first_column_of_the_origins():
    assert Origins(np.array([[3, 1], [3, 2], [4, 1]])).has_walks
    assert not Origins(np.array([[0, 2], [1, 2]])).has_walks


def test_a_copy_with_permuted_hidden_units_is_found_by_its_function():
    world = make_world("independent")
    honest = make_table(world.new_MD)
    hidden = ScoreTable("p_diff", honest.vectors_MD, make_table(world.original_KD[:M]).scores, "id", 0.0)
    found = measure_closeness(hidden, world.original, world.yardstick)
    assert found.behavior is Behavior.COPIES and found.function == 0 and found.weights > world.yardstick.weights_low


@pytest.mark.parametrize("name", WORLDS)
def test_a_sampler_that_repeats_three_models_has_collapsed(name):
    world = make_world(name)
    repeated_MD = world.new_MD[np.arange(M) % 3 * 7] + 1e-4 * np.random.default_rng(0).normal(size=(M, D))
    found = world.measure(repeated_MD)
    assert found.behavior is Behavior.COLLAPSED and found.spread > 0.3


@pytest.mark.parametrize("name", WORLDS)
def test_an_average_of_two_is_no_sample(name):
    world, random = make_world(name), np.random.default_rng(0)
    pairs_MD = np.stack([world.original_KD[random.permutation(K)[:2]].mean(axis=0) for _ in range(M)])
    assert world.measure(pairs_MD).behavior in (Behavior.AVERAGES, Behavior.COPIES)


def test_two_copies_of_each_original_are_copies():
    world = make_world("independent")
    copies_MD = np.concatenate([plant(Behavior.COPIES, world, seed=1), plant(Behavior.COPIES, world, seed=1) + 1e-3])
    assert world.measure(copies_MD).behavior is Behavior.COPIES


@pytest.mark.parametrize("name", WORLDS)
def test_a_narrow_sampler_far_from_the_mean_has_collapsed(name):
    world, noise_MD = make_world(name), np.random.default_rng(0).normal(size=(M, D))
    narrow_MD = world.new_MD[0] + 0.15 * Spacing.measure(world.original_KD).mean / np.sqrt(2 * D) * noise_MD
    found = world.measure(narrow_MD)
    assert found.spread == pytest.approx(0.15, rel=0.1) and found.deviation > 0.9
    assert found.behavior is Behavior.COLLAPSED


def test_one_model_has_no_spread():
    world = make_world("independent")
    assert world.measure(world.new_MD[:1]).spread is None
    assert world.measure(world.new_MD[:1]).behavior is Behavior.SAMPLES
    assert world.measure(world.original_KD[:1]).behavior is Behavior.COPIES
    mean = world.measure(world.original_KD.mean(axis=0, keepdims=True))
    assert mean.behavior is Behavior.AVERAGES and mean.deviation < 1e-6 and mean.outside_span is None


def test_the_originals_are_not_compared_with_themselves():
    world = make_world("independent")
    apart_KK = pair_originals(world.original_KD, world.origins).apart_KK
    assert (apart_KK == ~np.eye(K, dtype=bool)).all()
    found = measure_closeness(world.original, world.original, world.yardstick, apart_MK=apart_KK)
    assert found.behavior is Behavior.SAMPLES and found.deviation == found.spread == 1
    assert found.outside_span == pytest.approx(0, abs=1e-6)
    assert found.weights > 0.5 and found.copies < 0.12


def test_an_exact_copy_counts_although_many_originals_are_equal():
    original_KD = np.random.default_rng(0).normal(size=(20, D))
    original_KD[10:] = original_KD[:10]
    original = make_table(original_KD, source="original")
    yardstick = measure_yardstick(original, None, None)
    assert yardstick.weights_low == 0
    assert measure_closeness(make_table(original_KD[:5]), original, yardstick).copies == 1
    assert measure_closeness(make_table(original_KD[:5] + 1), original, yardstick).copies == 0


@pytest.mark.parametrize("k", [1, 2])
def test_fewer_than_three_originals_give_no_yardstick(k):
    assert measure_yardstick(make_table(np.eye(D)[:k], source="original"), None, None) is None


def test_equal_originals_give_no_yardstick():
    assert measure_yardstick(make_table(np.ones((5, D)), source="original"), None, None) is None


@pytest.mark.parametrize("d", [1, 2, D])
@pytest.mark.parametrize("k", [3, 4, 7, 10])
@pytest.mark.parametrize("origin", ["steps", "independent", "unknown"])
def test_few_originals_and_few_dimensions(k, d, origin):
    random = np.random.default_rng(0)
    steps = {"steps": number_steps(np.arange(k)), "independent": number_steps(np.arange(k))[:, ::-1]}
    original = make_table(random.normal(size=(k, d)), source="original")
    with np.errstate(all="raise"):
        yardstick = measure_yardstick(original, None, Origins(steps[origin]) if origin in steps else None)
        found = measure_closeness(make_table(random.normal(size=(6, d))), original, yardstick)
    assert 0 < yardstick.weights_low < 1 and 0 <= yardstick.lag <= 1 + k // 6
    assert np.isfinite([found.weights, found.function, found.copies, found.deviation, found.spread]).all()
    assert (found.outside_span is None) == (d < k)


def test_the_share_outside_the_span_agrees_with_a_decomposition():
    random = np.random.default_rng(0)
    original_KD, vectors_MD = random.normal(2, 1, size=(12, 50)), random.normal(2, 1, size=(5, 50))
    mean_D = original_KD.mean(axis=0)
    basis_DR = np.linalg.qr((original_KD - mean_D)[:-1].T)[0]
    deviation_MD = vectors_MD - mean_D
    outside_MD = deviation_MD - deviation_MD @ basis_DR @ basis_DR.T
    expected = (outside_MD**2).sum() / (deviation_MD**2).sum()
    assert 0.5 < expected < 1 and measure_outside_span(vectors_MD, original_KD) == pytest.approx(expected)
    mixed_MD = random.dirichlet(np.ones(12), size=5) @ original_KD
    assert measure_outside_span(mixed_MD, original_KD) == pytest.approx(0, abs=1e-12)
    assert measure_outside_span(vectors_MD[:, :11], original_KD[:, :11]) is None, "12 points span 11 dimensions"
