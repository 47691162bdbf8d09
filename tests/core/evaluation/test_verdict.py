"""The verdict on planted models whose quality and novelty are known, and the rules by which it is decided."""

import json
from typing import NamedTuple

import numpy as np
import pytest

from core.evaluation.audit import audit, choose_reference, make_bootstrap
from core.evaluation.copying import Behavior, Closeness
from core.evaluation.decisions import (
    Measured,
    count_differing,
    count_influential,
    decide_answer,
    decide_difference,
    decide_novelty,
    find_doubt,
    find_least_p,
    find_least_p_of_accuracy,
    find_rival,
    is_not_inferior,
    sum_groups,
)
from core.evaluation.groups import Group
from core.evaluation.intervals import Bootstrap
from core.evaluation.scores import ACCURACY, MAX_IOU, Metric, Scores
from core.evaluation.verdict import (
    Comparison,
    Decision,
    Difference,
    Doubt,
    Novelty,
    Outcome,
    Standing,
    Verdict,
    decide_outcome,
)
from core.evaluation.yardstick import Origins
from core.report.sentences import write_headline
from tests.core.evaluation import planted
from tests.core.evaluation.planted import SKILL, World

BETTER, WORSE, UNDECIDED = Decision.BETTER, Decision.WORSE, Decision.UNDECIDED
LOSS = Metric("loss", "nats", higher_is_better=False)


def judge(tables, **options):
    """Return the verdict with fewer draws than usual, to save time."""
    return audit(tables, Bootstrap(tables, draws=2000), **options)


class Planted(NamedTuple):
    """The verdict that a planted case must get, and the words that its headline was and is made of."""

    before: str  # what the headline said under earlier rules, most of which compared with an average of checkpoints
    answer: Decision
    novelty: Novelty | None
    behavior: Behavior | None
    after: tuple[str, ...]


NO_WORSE = "No, the generated models (p_diff) are less"
NO_UNDECIDED = "No, the generated models (p_diff) are not measurably more accurate than "
YES = "Yes, the generated models (p_diff) are more accurate than "
CASES = {
    planted.collapse: Planted(
        "No, … less accurate than averages of checkpoints: −81.95 … They are newer than averages: they repeat the "
        "errors of a checkpoint less.",
        WORSE, Novelty.WORSE, Behavior.SAMPLES, (NO_WORSE, "They are different because worse"),
    ),
    planted.copier: Planted(
        "No, … less accurate than averages of checkpoints: −3.66 … They are not new: they repeat the errors of a "
        "checkpoint more than averages do.",
        WORSE, Novelty.MEMORIZED, Behavior.COPIES, (NO_WORSE, "They are memorized, not new: most of them are copies"),
    ),
    planted.averager: Planted(
        "No, … not measurably more accurate than averages of checkpoints: −0.11 … They are not measurably newer than "
        "averages.",
        UNDECIDED, Novelty.AS_CLOSE, Behavior.AVERAGES, (NO_UNDECIDED, "They are averages: ", "not measurably newer"),
    ),
    planted.repeated_model: Planted(
        "Yes, … more accurate than ensemble, the best of the sources …: +3.15 … They are one model repeated. They "
        "are newer than ensemble: at no lower accuracy, they repeat the errors of a checkpoint less.",
        BETTER, Novelty.NO_SAMPLES, Behavior.COLLAPSED,
        (YES, "They are one model repeated.", "They do not count as new, although"),
    ),
    planted.less_accurate_sampler: Planted(
        "No, … less accurate than averages of checkpoints: −8.39 … They are newer than averages: they repeat the "
        "errors of a checkpoint less.",
        WORSE, Novelty.WORSE, Behavior.SAMPLES, (NO_WORSE, "They are different because worse"),
    ),
    planted.nested_errors: Planted(
        "No, … less accurate than averages of checkpoints: −0.30 … They are newer than averages: they repeat the "
        "errors of a checkpoint less.",
        WORSE, Novelty.WORSE, Behavior.SAMPLES, (NO_WORSE, "They are different because worse"),
    ),
    planted.loses_to_ensemble: Planted(
        "Yes, … more accurate than averages of checkpoints: +2.22 … They are newer than averages: they repeat the "
        "errors of a checkpoint less.",
        WORSE, Novelty.AS_CLOSE, Behavior.SAMPLES,
        (f"{NO_WORSE} accurate than ensemble (", "They are not measurably newer"),
    ),
    planted.loses_to_gaussian: Planted(
        "Yes, … more accurate than averages of checkpoints: +2.22 … They are newer than averages: they repeat the "
        "errors of a checkpoint less.",
        WORSE, Novelty.CLOSER, Behavior.SAMPLES, (f"{NO_WORSE} accurate than gaussian_full (", "They are not new"),
    ),
    planted.loses_to_average: Planted(
        "No, … less accurate than averages of checkpoints: −2.26 … They are not measurably newer than averages.",
        WORSE, Novelty.AS_CLOSE, Behavior.SAMPLES, (f"{NO_WORSE} accurate than average_8 (",),
    ),
    planted.better_and_new: Planted(
        "Yes, … more accurate than averages of checkpoints: +3.00 … They are newer than averages: they repeat the "
        "errors of a checkpoint less.",
        BETTER, Novelty.NEWER, Behavior.SAMPLES, (f"{YES}ensemble (", "They are newer than ensemble"),
    ),
    planted.twin: Planted(
        "Yes, … more accurate than averages of checkpoints: +3.23 … They are newer than averages: they repeat the "
        "errors of a checkpoint less.",
        UNDECIDED, Novelty.AS_CLOSE, Behavior.SAMPLES, (f"{NO_UNDECIDED}gaussian_full", "They are not measurably"),
    ),
    planted.lucky_twin: Planted(
        "Yes, … more accurate than ensemble, the best of the sources …: +3.47 … They are newer than ensemble: at no "
        "lower accuracy, they repeat the errors of a checkpoint less.",
        UNDECIDED, Novelty.CONSISTENT, Behavior.SAMPLES,
        (f"{NO_UNDECIDED}gaussian_full", "They are more accurate than ensemble (", "the best on validation images of "),
    ),
    planted.better_and_alike: Planted(
        "Yes, … more accurate than ensemble, the best of the sources …: +3.30 … They are newer than ensemble: at no "
        "lower accuracy, they repeat the errors of a checkpoint less.",
        BETTER, Novelty.CONSISTENT, Behavior.SAMPLES, (YES, "They are not measurably newer than ensemble: ", "(κ)"),
    ),
    planted.fewer_nested_errors: Planted(
        "Yes, … more accurate than gaussian_full, the best of the sources …: +0.25 … They are newer than "
        "gaussian_full: at no lower accuracy, they repeat the errors of a checkpoint less.",
        BETTER, Novelty.CONSISTENT, Behavior.SAMPLES, (YES, "They are not measurably newer than ", "is 1.000 for "),
    ),
    planted.lucky_errors: Planted(
        "Yes, … more accurate than ensemble, the best of the sources …: +0.12 … They are newer than ensemble: they "
        "repeat the errors of a checkpoint less, at a higher accuracy.",
        BETTER, Novelty.CONSISTENT, Behavior.SAMPLES, (YES, "They are not measurably newer than ensemble: ", "(κ)"),
    ),
    planted.repeated_copy: Planted(
        "Yes, … more accurate than ensemble, the best of the sources …: +4.12 … They are one model repeated. They "
        "are newer than ensemble: at no lower accuracy, they repeat the errors of a checkpoint less.",
        BETTER, Novelty.MEMORIZED, Behavior.COLLAPSED,
        (YES, "They are one model repeated.", "They are memorized, not new: most of them are copies"),
    ),
    planted.shrunk_copies: Planted(
        "Yes, … more accurate than ensemble, the best of the sources …: +5.32 … They are averages: … They are "
        "newer than ensemble: at no lower accuracy, they repeat the errors of a checkpoint less.",
        BETTER, Novelty.MEMORIZED, Behavior.AVERAGES, (YES, "They are memorized, not new: most of them are copies"),
    ),
    planted.pairs: Planted(
        "Yes, … more accurate than ensemble, the best of the sources …: +5.06 … They are averages: … They are "
        "newer than ensemble: at no lower accuracy, they repeat the errors of a checkpoint less.",
        BETTER, Novelty.CONSISTENT, Behavior.AVERAGES, (YES, "They are averages: ", "They are not measurably newer"),
    ),
    planted.some_copies: Planted(
        "Yes, … more accurate than ensemble, the best of the sources …: +3.72 … They are newer than ensemble: at no "
        "lower accuracy, they repeat the errors of a checkpoint less.",
        BETTER, Novelty.NO_SAMPLES, Behavior.SAMPLES,
        (YES, "45% of them are as near to a checkpoint as copies are.", "They do not count as new, although"),
    ),
    planted.few_copies: Planted(
        "Yes, … more accurate than ensemble, the best of the sources …: +1.21 … They are newer than ensemble: at no "
        "lower accuracy, they repeat the errors of a checkpoint less.",
        BETTER, Novelty.NEWER, Behavior.SAMPLES, (YES, "They are newer than ensemble: ", "at a higher accuracy."),
    ),
    planted.poor_rival: Planted(
        "No, … less accurate than ensemble: −5.25 … They are not new: they repeat the errors of a checkpoint "
        "more than gaussian_full does.",
        WORSE, Novelty.AS_CLOSE, Behavior.SAMPLES, (NO_WORSE, "They are not measurably newer than ensemble."),
    ),
    planted.few_images: Planted(
        "Yes, … more accurate than averages of checkpoints: +11.67 … They are not measurably newer than averages.",
        UNDECIDED, Novelty.AS_CLOSE, Behavior.SAMPLES, (NO_UNDECIDED, "They are not measurably newer"),
    ),
    planted.one_original: Planted(
        "Yes, … more accurate than averages of checkpoints: +6.38 … They are newer than averages: they repeat the "
        "errors of a checkpoint less.",
        BETTER, None, None, (f"{YES}original (", "It was not measured whether they are new."),
    ),
    planted.two_originals: Planted(
        "Yes, … more accurate than averages of checkpoints: +5.03 … They are newer than averages: they repeat the "
        "errors of a checkpoint less.",
        UNDECIDED, None, None, (f"{NO_UNDECIDED}original (", "It was not measured whether they are new."),
    ),
    planted.three_originals: Planted(
        "Yes, … more accurate than averages of checkpoints: +6.69 … They are newer than averages: they repeat the "
        "errors of a checkpoint less.",
        UNDECIDED, Novelty.NEWER, Behavior.SAMPLES, (f"{NO_UNDECIDED}original (", "They are newer than ensemble"),
    ),
    planted.no_masks: Planted(
        "Yes, … more accurate than averages of checkpoints: +3.35 … It was not measured whether they are new.",
        BETTER, None, Behavior.SAMPLES, (f"{YES}ensemble (", "It was not measured whether they are new."),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_a_planted_case_gets_its_verdict(case):
    expected, tables = CASES[case], case()
    verdict = judge(tables)
    closeness = verdict.closeness.get("p_diff")
    assert (verdict.answer, verdict.novelty) == (expected.answer, expected.novelty)
    assert (closeness and closeness.behavior) == expected.behavior
    headline = write_headline(verdict)
    positions = [headline.find(words) for words in expected.after]
    assert positions[0] == 0 and -1 not in positions and positions == sorted(positions), headline
    assert json.loads(json.dumps(verdict.to_json(), allow_nan=False)) == verdict.to_json()
    assert Verdict.from_json(verdict.to_json()) == verdict


@pytest.fixture(scope="module")
def tables():
    world = World()
    return world.tables(world.sample(40), SKILL + 0.7, others={"finetuned_5": world.copy(20, 0.2)})


@pytest.fixture(scope="module")
def verdict(tables):
    return judge(tables, costs={"p_diff": 20.0, "finetuned_5": 5.0, "continued": None})


def test_the_reference_comes_first_then_the_other_free_sources_then_the_trained_ones(verdict):
    assert [row.baseline.source for row in verdict.comparisons] == [
        "ensemble", "original", "noised_0.5", "average_8", "gaussian_full", "soup_original", "finetuned_5",
    ]  # fmt: skip
    assert [row.baseline.source for row in verdict.list_group(Group.TRAINED)] == ["finetuned_5"]
    assert verdict.groups["soup_original"] is Group.FREE and verdict.groups["soup_p_diff"] is Group.GENERATED
    assert verdict.costs == {"p_diff": 20.0, "finetuned_5": 5.0}


def test_validation_images_choose_the_reference_but_not_a_soup_that_they_made():
    world = World()
    tables = world.tables(world.sample(5), skills={"soup_original": SKILL + 1})
    free = [table for source, table in tables.items() if source not in ("p_diff", "soup_p_diff")]
    assert choose_reference(free) == ("ensemble", "val")
    test = tables["average_8"].scores["test"]
    np.copyto(test.accuracy_M, 0.999)  # test images have no say
    assert choose_reference(free) == ("ensemble", "val")
    del tables["noised_0.5"].scores["val"]
    assert choose_reference(free) == ("average_8", "test")


def test_a_soup_can_still_show_that_p_diff_is_worse():
    world = World()
    verdict = judge(world.tables(world.sample(40), SKILL + 0.7, skills={"soup_original": SKILL + 1.2}))
    assert (verdict.reference, verdict.answer) == ("ensemble", WORSE)
    assert verdict.get_comparison("ensemble").accuracy.decision is BETTER
    assert write_headline(verdict).startswith(
        f"{NO_WORSE} accurate than soup_original (a greedy average of checkpoints), one of the sources that need no "
    )


def test_the_headline_has_a_95_percent_interval_and_all_others_share_a_level(verdict, tables):
    axes = [axis for row in verdict.comparisons for axis in (row.accuracy, row.max_iou, row.kappa_relative)]
    assert [axis.level for axis in axes] == [0.95] + [verdict.interval_level] * (len(axes) - 1)
    family, decided = len(axes) - 1, sum(axis.decision is not UNDECIDED for axis in axes) - 1
    assert verdict.interval_level == pytest.approx(1 - 0.05 * decided / family) and 0 < decided <= family
    twin = judge(planted.twin())
    assert 0.95 < twin.interval_level < 0.99 and twin.comparisons[0].accuracy.level == 0.95


def test_decisions_agree_with_the_printed_intervals_and_p_values():
    for case in (planted.twin, planted.averager, planted.few_images):
        verdict = judge(case())
        for row in verdict.comparisons:
            for axis in (row.accuracy, row.max_iou, row.kappa_relative):
                low, high = axis.interval
                assert (low > 0 or high < 0) == (axis.decision is not UNDECIDED) == (axis.p <= 1 - axis.level + 1e-9)


def test_differences_are_p_diff_minus_the_baseline(verdict):
    ours = verdict.p_diff
    assert ours.n == 40
    for row in verdict.comparisons:
        assert row.accuracy.value == pytest.approx(ours.accuracy_mean - row.baseline.accuracy_mean)
        assert row.max_iou.value == pytest.approx(ours.max_iou_mean - row.baseline.max_iou_mean)
        kappa = row.kappa_relative
        assert kappa.value == pytest.approx(ours.kappa_relative_mean - row.baseline.kappa_relative_mean)
        assert kappa.interval[0] < kappa.value < kappa.interval[1]
        assert row.accuracy.interval[0] < row.accuracy.value < row.accuracy.interval[1]
    for standing in (ours, *(row.baseline for row in verdict.comparisons)):
        assert standing.max_iou_mean < standing.overlap_mean <= 1 and standing.kappa_relative_mean < 1


def test_only_steps_of_one_training_are_resampled_in_blocks():
    world = World(num_originals=60, walk=True)
    tables = world.tables(world.sample(4), others={"continued": world.walk()})
    steps_K2 = np.stack([np.zeros(60, np.int64), np.arange(60)], axis=1)
    walk, unknown = (make_bootstrap(tables, origins) for origins in (Origins(steps_K2), None))
    assert set(walk.block_lengths) == {"original", "continued"} and min(walk.block_lengths.values()) > 1
    assert walk.block_lengths == unknown.block_lengths  # neighbors of unknown origin resemble each other
    apart = make_bootstrap(tables, Origins(steps_K2[:, ::-1]))
    assert apart.block_lengths == {} and make_bootstrap(World().tables(world.sample(4))).block_lengths == {}
    verdict = audit(tables, Bootstrap(tables, block_lengths=walk.block_lengths, draws=500))
    assert (verdict.block_lengths, verdict.draws) == (walk.block_lengths, 500)


@pytest.mark.parametrize("share", [0.9, 0.1, 0.0])
def test_the_variance_that_the_autoencoder_keeps_is_measured(share):
    world = World(num_images=60)
    mean_D = world.originals_KD.mean(axis=0)
    others = {"reconstructed": mean_D + share * (world.originals_KD - mean_D)}
    tables = world.tables(world.sample(4), others=others)
    verdict = audit(tables, Bootstrap(tables, draws=100))
    assert verdict.variance_kept == pytest.approx(1 - (1 - share) ** 2, abs=1e-4)
    assert verdict.groups["reconstructed"] is Group.GENERATED


def test_a_single_original_has_no_maximum_iou():
    verdict = judge(planted.one_original())
    row = verdict.get_comparison("original")
    assert row.max_iou is None and row.newness is None and row.baseline.max_iou_mean is None
    assert verdict.closeness == {} and verdict.yardstick is None


def test_nothing_is_decided_between_two_single_models_without_masks_of_wrong_images():
    world = World(with_wrong=False)
    row = judge(world.tables(world.sample(1), SKILL + 1)).get_comparison("ensemble")
    assert (row.accuracy.decision, row.accuracy.interval, row.not_inferior) == (UNDECIDED, None, False)


# The rules, one by one.


def comparison(source="average_8", accuracy=UNDECIDED, iou=UNDECIDED, value=0.01, doubt=None):
    """Return a comparison with these decisions; `iou=None` means that max IoU was not measured."""
    overlap = None if iou is None else Difference(-0.1, (-0.2, 0.0), iou)
    return Comparison(Standing(source, 9, 0.8), Difference(value, None, accuracy), overlap, doubt=doubt)


@pytest.mark.parametrize(
    "others, answer",
    [
        ([], BETTER),
        ([comparison("gaussian", BETTER), comparison("original", BETTER)], BETTER),
        ([comparison("gaussian", UNDECIDED, value=0.001)], UNDECIDED),
        ([comparison("gaussian", UNDECIDED, value=-0.001)], UNDECIDED),
        ([comparison("gaussian", WORSE, value=-0.01), comparison("original", UNDECIDED)], WORSE),
    ],
)
def test_p_diff_is_better_only_if_it_is_measurably_better_than_every_free_source(others, answer):
    assert decide_answer([comparison(accuracy=BETTER), *others]) is answer


@pytest.mark.parametrize("against", [WORSE, UNDECIDED])
def test_p_diff_is_not_better_than_its_reference_says(against):
    rows = [comparison(accuracy=against), comparison("original", BETTER)]
    assert decide_answer(rows) is against


@pytest.mark.parametrize(
    "interval, metric, not_inferior",
    [
        ((-0.0049, 0.01), ACCURACY, True),
        ((-0.0051, 0.01), ACCURACY, False),
        ((-0.004, -0.001), ACCURACY, True),
        ((-0.01, -0.001), LOSS, True),
        ((-0.01, 0.001), LOSS, False),
        (None, ACCURACY, False),
    ],
)
def test_half_a_point_of_accuracy_is_the_margin(interval, metric, not_inferior):
    assert is_not_inferior(Difference(0.0, interval, UNDECIDED), metric) is not_inferior


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize(
    "accuracy, interval, kappa, doubt",
    [
        (BETTER, (0.001, 0.02), BETTER, None),
        (BETTER, (0.001, 0.02), None, Doubt.CONSISTENCY),
        (BETTER, (0.001, 0.02), UNDECIDED, Doubt.CONSISTENCY),
        (BETTER, (0.001, 0.02), WORSE, Doubt.CONSISTENCY),  # more accurate, but more consistent
        (UNDECIDED, (-0.004, 0.02), BETTER, None),
        (UNDECIDED, (-0.004, 0.02), UNDECIDED, Doubt.CONSISTENCY),
        (UNDECIDED, (-0.006, 0.02), BETTER, Doubt.UNCERTAIN),
        (WORSE, (-0.004, -0.001), BETTER, None),
        (WORSE, (-0.004, -0.001), UNDECIDED, Doubt.ACCURACY),
        (WORSE, (-0.02, -0.01), BETTER, Doubt.ACCURACY),
        (UNDECIDED, None, BETTER, Doubt.UNCERTAIN),
    ],
)
def test_a_lower_iou_counts_if_accuracy_does_not_explain_it_for_p_diff_and_for_a_baseline(
    swapped, accuracy, interval, kappa, doubt
):
    consistency = None if kappa is None else Difference(-0.1, None, kappa)
    differences = Difference(0.0, interval, accuracy), Difference(-0.1, None, BETTER), consistency
    if swapped:
        differences = [each and each.swap() for each in differences]
    accuracy, iou, consistency = differences
    row = Comparison(Standing("source", 9, 0.8), accuracy, iou, kappa_relative=consistency)
    assert find_doubt(row, ACCURACY) is doubt


@pytest.mark.parametrize("iou", [None, UNDECIDED])
def test_there_is_no_doubt_about_a_difference_that_was_not_found(iou):
    assert find_doubt(comparison(accuracy=WORSE, iou=iou), ACCURACY) is None


def test_a_swapped_difference_has_the_reverse_sign_interval_and_decision():
    swapped = Difference(-0.1, (-0.2, 0.05), WORSE, 0.01, 0.97).swap()
    assert swapped == Difference(0.1, (-0.05, 0.2), BETTER, 0.01, 0.97)
    assert Difference(0.1, None, UNDECIDED).swap() == Difference(-0.1, None, UNDECIDED)


@pytest.mark.parametrize("iou", [BETTER, WORSE])
def test_an_iou_that_does_not_count_leaves_the_axis_undecided(iou):
    row = comparison(accuracy=WORSE, iou=iou, doubt=Doubt.ACCURACY)
    assert (row.newness, row.outcome) == (UNDECIDED, Outcome.IS_DOMINATED)
    assert comparison(accuracy=WORSE, iou=BETTER).outcome is Outcome.TRADE_OFF


def test_a_baseline_that_is_far_less_accurate_is_not_newer():
    verdict = judge(planted.bad_baseline())
    row = verdict.get_comparison("gaussian_full")
    assert row.max_iou.decision is WORSE and row.doubt is Doubt.ACCURACY
    assert (row.outcome, verdict.rival, verdict.novelty) == (Outcome.DOMINATES, None, Novelty.NEWER)


def test_a_source_that_copies_is_never_newer_but_another_source_can_be_newer_than_it():
    verdict = judge(planted.copies_among_copies())
    assert verdict.novelty is Novelty.MEMORIZED
    expected = {
        "noised_0.02": (BETTER, Doubt.COPIES, UNDECIDED, Outcome.TIE),  # p_diff copies with more noise.
        "noised_0.3": (WORSE, Doubt.COPIES, UNDECIDED, Outcome.TIE),  # The baseline does.
        "gaussian_full": (WORSE, None, WORSE, Outcome.IS_DOMINATED),
    }
    rows = {source: verdict.get_comparison(source) for source in expected}
    found = {source: (row.max_iou.decision, row.doubt, row.newness, row.outcome) for source, row in rows.items()}
    assert found == expected
    for row in rows.values():
        assert row.not_inferior and row.kappa_relative.decision is row.max_iou.decision, "copying alone decides"
    assert find_rival([rows["noised_0.3"]], "ensemble") is None
    assert find_rival(list(rows.values()), "ensemble") == "gaussian_full"


@pytest.mark.parametrize("iou, lower, higher", [(BETTER, "p_diff", "lawa"), (WORSE, "lawa", "p_diff")])
def test_copying_is_the_first_doubt_about_the_source_with_the_lower_iou(iou, lower, higher):
    row = comparison("lawa", WORSE, iou)
    assert find_doubt(row, ACCURACY, {lower}) is Doubt.COPIES
    assert find_doubt(row, ACCURACY, {higher}) is find_doubt(row, ACCURACY) is not Doubt.COPIES


def test_a_rival_is_a_free_source_whose_fewer_repeated_errors_count():
    doubtful = comparison("noised", accuracy=UNDECIDED, iou=WORSE, doubt=Doubt.UNCERTAIN)
    gaussian = comparison("gaussian", accuracy=UNDECIDED, iou=WORSE)
    assert find_rival([comparison(iou=BETTER), doubtful], "average_8") is None
    assert find_rival([comparison(iou=BETTER), doubtful, gaussian], "average_8") == "gaussian"
    assert find_rival([gaussian, comparison(accuracy=BETTER, iou=WORSE)], "average_8") == "average_8"
    assert find_rival([comparison(iou=None)], "average_8") is None


def closeness(behavior=Behavior.SAMPLES, copies=0.0, deviation=1.0, weights=0.7):
    return Closeness("p_diff", weights, 0.7, copies, deviation, 1.0, None, behavior)


SAMPLES, COLLAPSED, AVERAGES = Behavior.SAMPLES, Behavior.COLLAPSED, Behavior.AVERAGES
NEWER_ROW = comparison(iou=BETTER)


@pytest.mark.parametrize(
    "row, rival, near, novelty",
    [
        (NEWER_ROW, None, closeness(), Novelty.NEWER),
        (NEWER_ROW, "gaussian", closeness(), Novelty.CLOSER),
        (NEWER_ROW, None, None, None),  # Copies cannot be ruled out.
        (NEWER_ROW, None, closeness(Behavior.COPIES, 0.51), Novelty.MEMORIZED),
        (NEWER_ROW, None, closeness(COLLAPSED, 1.0), Novelty.MEMORIZED),
        (NEWER_ROW, None, closeness(AVERAGES, 1.0, 0.7, 0.25), Novelty.MEMORIZED),
        (NEWER_ROW, None, closeness(AVERAGES, 1.0, 0.7, 0.5), Novelty.NO_SAMPLES),
        (NEWER_ROW, None, closeness(AVERAGES, 0.0, 0.5, 0.8), Novelty.NO_SAMPLES),
        (NEWER_ROW, None, closeness(COLLAPSED), Novelty.NO_SAMPLES),
        (NEWER_ROW, None, closeness(SAMPLES, 0.16), Novelty.NO_SAMPLES),
        (NEWER_ROW, None, closeness(SAMPLES, 0.15), Novelty.NEWER),
        (comparison(iou=UNDECIDED), None, None, Novelty.AS_CLOSE),
        (comparison(iou=WORSE, doubt=Doubt.ACCURACY), None, None, Novelty.AS_CLOSE),
        (comparison(iou=BETTER, doubt=Doubt.ACCURACY), None, None, Novelty.WORSE),
        (comparison(iou=BETTER, doubt=Doubt.UNCERTAIN), None, None, Novelty.UNCLEAR),
        (comparison(iou=BETTER, doubt=Doubt.CONSISTENCY), None, None, Novelty.CONSISTENT),
        (comparison(iou=None), None, closeness(), None),
        (comparison(iou=None), None, closeness(Behavior.COPIES, 0.51), Novelty.MEMORIZED),
    ],
)
def test_novelty_takes_weights_errors_and_accuracy_into_account(row, rival, near, novelty):
    assert decide_novelty(row, rival, near) is novelty


@pytest.mark.parametrize("count", [count_differing, count_influential])
@pytest.mark.parametrize(
    "weights, groups, least",
    [
        ([1, -1, 1, 1], None, 2 / 2**4),
        ([1, 1, 1, 1], [0, 0, 1, 1], 2 / 2**2),
        ([1, -1], [5, 5], 1.0),
        ([0, 0], None, 1.0),
        ([2.0] * 10 + [0.0] * 90, None, 2 / 2**10),
    ],
)
def test_few_images_cannot_show_much(weights, groups, least, count):
    weights_G = sum_groups(np.array(weights, float), None if groups is None else np.array(groups))
    assert find_least_p(count(weights_G)) == pytest.approx(least)


def test_images_that_both_sources_treat_alike_are_no_evidence_although_they_have_an_influence():
    """Of 300 images, 4 differ. The influences of the others are small and cancel."""
    alike, metric = np.where(np.arange(296) % 2, 0.1, -0.1), Metric("mean IoU", "share", higher_is_better=True)
    influence_1N = np.concatenate([np.full(4, 9.0), alike])[None]
    ours, theirs = (
        Scores(part.mean(axis=1), np.zeros(1), None, metric=metric, influence_MN=part)
        for part in (influence_1N, np.zeros((1, 300)))
    )
    assert find_least_p_of_accuracy(ours, theirs) == pytest.approx(2 / 2**4, rel=0.05)


def test_few_models_cannot_show_much_without_masks():
    few, many = (Scores(np.zeros(size), np.zeros(size), None) for size in (2, 20))
    assert find_least_p_of_accuracy(few, few) == pytest.approx(2 / 6)
    assert find_least_p_of_accuracy(many, few) == pytest.approx(2 / 231)


@pytest.mark.parametrize(
    "shift, metric, word",
    [
        (5, ACCURACY, "better"),
        (5, MAX_IOU, "worse"),
        (-5, ACCURACY, "worse"),
        (-5, MAX_IOU, "better"),
        (0, ACCURACY, "undecided"),
        (0, MAX_IOU, "undecided"),
    ],
)
def test_an_axis_is_decided_if_the_interval_excludes_zero(shift, metric, word):
    found = decide_difference(Measured(shift, np.linspace(-1, 1, 999) + shift, metric), 0.95)
    assert found.decision is Decision(word) and (found.value, found.level) == (shift, 0.95)
    assert found.interval == pytest.approx((shift - 0.95, shift + 0.95), abs=0.01)


def test_a_difference_that_rests_on_too_little_is_undecided_and_its_interval_reaches_zero():
    draws_R = np.linspace(-1, 1, 999) + 5
    found = decide_difference(Measured(5, draws_R, ACCURACY, least_p=0.06), 0.95)
    assert (found.decision, found.p, found.interval[0]) == (UNDECIDED, 0.06, 0.0)
    assert decide_difference(Measured(5, draws_R, ACCURACY, least_p=0.04), 0.95).decision is BETTER


def test_there_is_no_interval_without_draws_or_with_too_few_for_the_level():
    for draws_R in (None, np.linspace(4, 6, 99)):
        found = decide_difference(Measured(5, draws_R, ACCURACY), 0.999)
        assert (found.decision, found.interval) == (UNDECIDED, None)


@pytest.mark.parametrize(
    "axes, word",
    [
        (("better", "better"), "dominates"),
        (("better", "undecided"), "dominates"),
        (("undecided", "better"), "dominates"),
        (("worse", "worse"), "is dominated"),
        (("undecided", "worse"), "is dominated"),
        (("better", "worse"), "trade-off"),
        (("worse", "better"), "trade-off"),
        (("undecided", "undecided"), "tie"),
        (("better",), "dominates"),
        (("undecided",), "tie"),
    ],
)
def test_the_outcome_of_two_axes(axes, word):
    assert decide_outcome(*map(Decision, axes)) is Outcome(word)


# The file.


def test_its_json_has_the_keys_of_the_format(verdict):
    content = verdict.to_json()
    assert list(content) == [
        "p_diff", "reference", "chosen_on", "answer", "novelty", "comparisons", "groups", "costs", "yardstick",
        "closeness", "interval_level", "draws", "block_lengths",
    ]  # fmt: skip
    assert list(content["p_diff"]) == ["n", "accuracy_mean", "max_iou_mean", "kappa_relative_mean", "overlap_mean"]
    assert list(content["comparisons"][1]) == [
        "baseline", "n", "accuracy_mean", "max_iou_mean", "kappa_relative_mean", "overlap_mean",
        "accuracy_difference", "accuracy_interval", "accuracy_level", "accuracy_p", "accuracy_is", "not_inferior",
        "max_iou_difference", "max_iou_interval", "max_iou_level", "max_iou_p", "max_iou_is", "max_iou_counts",
        "kappa_relative_difference", "kappa_relative_interval", "kappa_relative_level", "kappa_relative_p",
        "kappa_relative_is", "max_iou_doubt", "outcome",
    ]  # fmt: skip
    assert content["closeness"]["p_diff"]["behavior"] == "samples" and content["groups"]["finetuned_5"] == "trained"


EARLIER = {  # the verdict of an earlier version
    "p_diff": {"n": 5, "accuracy_mean": 0.8},
    "comparisons": [
        {
            "baseline": source,
            "n": 6,
            "accuracy_mean": 0.9,
            "accuracy_difference": -0.1,
            "accuracy_interval": [-0.2, -0.01],
            "accuracy_is": "worse",
            "max_iou_difference": -0.1,
            "max_iou_interval": [-0.2, -0.01],
            "max_iou_is": "better",
            "outcome": "trade-off",
        }
        for source in ("original", "average_3", "finetuned", "reconstructed")
    ],
    "averaging": [],
    "best_average": "average_3",
    "near_copies": {"p_diff": 1.0},
    "novelty": "newer than an average",
    "variance_kept": 0.9,
}


def test_the_verdict_of_a_version_without_intervals_of_kappa_is_read_as_it_was_decided(verdict):
    content = verdict.to_json()
    rows = [
        {key: value for key, value in row.items() if not key.startswith("kappa_relative_") or key.endswith("_mean")}
        for row in content["comparisons"]
    ]
    read = Verdict.from_json(content | {"comparisons": rows})
    assert {row.kappa_relative for row in read.comparisons} == {None}
    assert [row.newness for row in read.comparisons] == [row.newness for row in verdict.comparisons]


def test_the_verdict_of_an_earlier_version_is_read_as_it_was_decided():
    verdict = Verdict.from_json(EARLIER)
    assert (verdict.reference, verdict.answer, verdict.novelty) == ("average_3", WORSE, Novelty.NEWER)
    assert {row.outcome for row in verdict.comparisons} == {Outcome.TRADE_OFF}
    assert [row.baseline.source for row in verdict.comparisons][:2] == ["average_3", "original"]
    assert {row.baseline.source: verdict.groups[row.baseline.source].value for row in verdict.comparisons} == {
        "original": "original", "average_3": "free", "finetuned": "trained", "reconstructed": "generated"
    }  # fmt: skip
    assert Verdict.from_json(json.loads(json.dumps(verdict.to_json()))) == verdict


@pytest.mark.parametrize("old, new", [("memorized", "memorized"), ("near-copies that err otherwise", "memorized"),
    ("closer than an average", "not new"), ("as close as an average", "not measurably newer")])  # fmt: skip
def test_earlier_names_of_the_novelty_are_read(old, new):
    assert Verdict.from_json(EARLIER | {"novelty": old}).novelty is Novelty(new)


@pytest.mark.parametrize(
    "accuracy, iou, doubt",
    [("worse", "better", Doubt.ACCURACY), ("undecided", "better", Doubt.UNCERTAIN), ("worse", "worse", None)],
)
def test_a_file_that_only_says_that_a_lower_iou_does_not_count_is_read(accuracy, iou, doubt):
    rows = [
        row | {"accuracy_is": accuracy, "max_iou_is": iou, "max_iou_counts": False} for row in EARLIER["comparisons"]
    ]
    verdict = Verdict.from_json(EARLIER | {"comparisons": rows})
    assert {row.doubt for row in verdict.comparisons} == {doubt}
    assert {row.newness for row in verdict.comparisons} == {UNDECIDED if doubt else WORSE}


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content.pop("comparisons"),
        lambda content: content["comparisons"][0].pop("accuracy_is"),
        lambda content: content["comparisons"][0].update(accuracy_is="fine"),
        lambda content: content.update(reference="unknown"),
        lambda content: content.update(novelty="unknown"),
        lambda content: content["closeness"]["p_diff"].pop("copies"),
    ],
    ids=["no comparisons", "no decision", "unknown decision", "no reference", "unknown novelty", "no copies"],
)
def test_json_of_another_format_is_refused(verdict, damage):
    content = json.loads(json.dumps(verdict.to_json()))
    damage(content)
    with pytest.raises((KeyError, ValueError, TypeError)):
        Verdict.from_json(content)
