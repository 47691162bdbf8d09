"""The wording of the verdict, checked on verdicts that are built directly."""

import json
from dataclasses import replace

import pytest

from core.evaluation.copying import Behavior, Closeness
from core.evaluation.groups import find_group
from core.evaluation.verdict import Comparison, Decision, Difference, Doubt, Novelty, Outcome, Standing, Verdict
from core.evaluation.yardstick import Yardstick
from core.report import sentences
from core.report.sentences import (
    explain,
    format_level,
    format_max_iou,
    word_verdict,
    write_caution,
    write_copying,
    write_gain,
    write_headline,
    write_method,
    write_outcomes,
    write_statements,
    write_trained,
)

BETTER, WORSE, UNDECIDED = Decision.BETTER, Decision.WORSE, Decision.UNDECIDED
P_DIFF = Standing("p_diff", 30, 0.8, 0.7)
POINTS = "+1.00 percentage points (95% interval −0.50 to +2.50)"
AVERAGE = (
    "average_8 (the mean of 8 random checkpoints), the best on validation images of the sources that need no further "
    "training"
)
OVERLAP = (
    "The overlap of errors with the most similar checkpoint (max IoU) is 0.700 for p_diff and 0.600 for average_8, "
    "a difference of +0.100 (97.4% interval −0.013 to +0.212)."
)


def difference(decision, value=0.01, level=0.95):
    """Return a difference of accuracies, whose numbers need not match its decision."""
    return Difference(value, (value - 0.015, value + 0.015), decision, level=level)


def comparison(source, accuracy=UNDECIDED, max_iou=UNDECIDED, mean=0.75, value=0.01, doubt=None):
    """Return a comparison of p_diff with one source; `max_iou=None` means that max IoU was not measured."""
    axis, overlap = difference(accuracy, value), Difference(0.1, (-0.0125, 0.2125), max_iou or UNDECIDED, level=0.974)
    if max_iou is None:
        return Comparison(Standing(source, 30, mean), axis, None)
    return Comparison(Standing(source, 30, mean, 0.6), axis, overlap, True, doubt)


def closeness(behavior=Behavior.SAMPLES, spread=0.9):
    return Closeness("p_diff", 0.712, 0.655, 0.051, 0.99, spread, None, behavior)


def make_verdict(*others, answer=UNDECIDED, accuracy=None, iou=UNDECIDED, behavior=Behavior.SAMPLES, **changes):
    """Return a verdict whose reference is `average_8`, with further comparisons `others`."""
    rows = (comparison("average_8", accuracy or answer, iou), *(others or [comparison("original", max_iou=iou)]))
    return Verdict(
        **{
            "p_diff": P_DIFF if iou else Standing("p_diff", 30, 0.8),
            "comparisons": rows,
            "reference": "average_8",
            "answer": answer,
            "novelty": Novelty.AS_CLOSE,
            "chosen_on": "val",
            "groups": {row.baseline.source: find_group(row.baseline.source) for row in rows},
            "yardstick": Yardstick(True, 40, 0, 0.5, 0.4),
            "closeness": {"p_diff": closeness(behavior)},
            **changes,
        }
    )


@pytest.mark.parametrize(
    "answer, words", [(BETTER, "Yes, {} more"), (WORSE, "No, {} less"), (UNDECIDED, "No, {} not measurably more")]
)
def test_the_headline_answers_whether_p_diff_beats_the_best_free_source_by_name(answer, words):
    said = words.format("the generated models (p_diff) are")
    assert write_headline(make_verdict(answer=answer)).startswith(f"{said} accurate than {AVERAGE}: {POINTS}. They ")


@pytest.mark.parametrize(
    "answer, accuracy, said",
    [(WORSE, WORSE, "are less accurate"), (UNDECIDED, UNDECIDED, "are not measurably more accurate")],
)
def test_a_result_that_beats_the_reference_and_not_another_free_source_never_reads_yes(answer, accuracy, said):
    rows = [comparison("original", BETTER), comparison("gaussian", accuracy, value=-0.02)]
    rows += [comparison("interpolated", value=-0.01), comparison("ema", BETTER, value=-0.03)]
    headline = write_headline(make_verdict(*rows, answer=answer, accuracy=BETTER))
    assert headline.startswith(
        f"No, the generated models (p_diff) {said} than gaussian (samples of a Gaussian with diagonal covariance), one "
        "of the sources that need no further training: −2.00 percentage points (95% interval −3.50 to −0.50). "
        f"They are more accurate than {AVERAGE}: {POINTS}. They "
    )


def test_a_small_lead_over_one_free_source_is_named_if_it_is_not_measurable():
    rows = [comparison("original", UNDECIDED, value=0.003), comparison("gaussian", UNDECIDED, value=0.002)]
    headline = write_headline(make_verdict(*rows, answer=UNDECIDED, accuracy=BETTER))
    assert headline.startswith("No, the generated models (p_diff) are not measurably more accurate than gaussian (")


def test_a_free_source_that_is_better_is_named_although_the_reference_is_undecided():
    rows = [comparison("original", UNDECIDED), comparison("soup_original", WORSE, value=-0.02)]
    headline = write_headline(make_verdict(*rows, answer=WORSE, accuracy=UNDECIDED))
    assert headline.startswith("No, the generated models (p_diff) are less accurate than soup_original (")
    assert f"They are not measurably different in accuracy from {AVERAGE}: {POINTS}. They " in headline


@pytest.mark.parametrize("novelty", [novelty for novelty in Novelty if novelty is not Novelty.CLOSER])
def test_the_headline_answers_whether_p_diff_is_new(novelty):
    headline = write_headline(make_verdict(novelty=novelty))
    accuracy = ", at an accuracy that is lower by less than half a point, if at all"
    assert headline.endswith(f"{sentences.NOVELTY[novelty].format('average_8', accuracy)} {OVERLAP}")
    assert ("They are newer" in headline) == (novelty is Novelty.NEWER)


@pytest.mark.parametrize(
    "accuracy, said",
    [
        (BETTER, "less, at a higher accuracy. The"),
        (UNDECIDED, "less, at an accuracy that is lower by less than half a point, if at all. The"),
        (WORSE, "less, at an accuracy that is lower by less than half a point. The"),
    ],
)
def test_the_headline_says_at_which_accuracy_models_are_newer(accuracy, said):
    verdict = make_verdict(accuracy=accuracy, novelty=Novelty.NEWER)
    assert f"They are newer than average_8: they repeat the errors of a checkpoint {said} " in write_headline(verdict)
    earlier = replace(verdict, comparisons=tuple(replace(row, not_inferior=None) for row in verdict.comparisons))
    assert "they repeat the errors of a checkpoint less. The " in write_headline(earlier)


def test_the_relative_kappa_that_shows_no_newness_is_told():
    verdict = make_verdict(novelty=Novelty.CONSISTENT)
    rows = tuple(replace(row, baseline=replace(row.baseline, kappa_relative_mean=0.7)) for row in verdict.comparisons)
    verdict = replace(verdict, comparisons=rows, p_diff=replace(P_DIFF, kappa_relative_mean=0.75))
    said = (
        "Error consistency (κ) over its largest value at these accuracies is 0.750 for p_diff and 0.700 for average_8"
    )
    assert write_headline(verdict).endswith(f"{said}."), "earlier versions compared the means alone"
    consistency = Difference(0.05, (-0.0125, 0.1124), UNDECIDED, level=0.974)
    verdict = replace(verdict, comparisons=tuple(replace(row, kappa_relative=consistency) for row in rows))
    assert write_headline(verdict).endswith(f"{said}, a difference of +0.050 (97.4% interval −0.013 to +0.112).")


def test_a_source_that_is_newer_is_named():
    rows = [comparison("original"), comparison("gaussian", max_iou=WORSE)]
    headline = write_headline(make_verdict(*rows, novelty=Novelty.CLOSER, rival="gaussian"))
    assert "They are not new: they repeat the errors of a checkpoint more than gaussian does. " in headline
    assert headline.endswith(OVERLAP.replace("average_8", "gaussian"))


@pytest.mark.parametrize("iou", [None, UNDECIDED])
def test_no_novelty_is_claimed_if_it_was_not_measured(iou):
    verdict = make_verdict(iou=iou, novelty=None)
    assert write_headline(verdict).endswith("). It was not measured whether they are new.")
    if iou is None:
        assert not any("IoU" in statement or "newness" in statement for statement in write_statements(verdict))


@pytest.mark.parametrize("behavior", Behavior)
def test_averages_and_a_repeated_model_are_named_in_the_headline(behavior):
    headline = write_headline(make_verdict(behavior=behavior))
    assert ("They are one model repeated." in headline) == (behavior is Behavior.COLLAPSED)
    assert ("They are averages: " in headline) == (behavior is Behavior.AVERAGES)
    memorized = write_headline(make_verdict(behavior=behavior, novelty=Novelty.MEMORIZED))
    assert ("They are one model repeated." in memorized) == (behavior is Behavior.COLLAPSED)
    assert "They are averages: " not in memorized


@pytest.mark.parametrize("copies, named", [(0.15, False), (0.16, True), (0.45, True)])
def test_more_copies_than_honest_models_show_are_named_in_the_headline(copies, named):
    near = replace(closeness(), copies=copies)
    verdict = make_verdict(closeness={"p_diff": near}, novelty=Novelty.NO_SAMPLES)
    said = f" {100 * copies:.0f}% of them are as near to a checkpoint as copies are. They do not count as new, "
    assert (said in write_headline(verdict)) == named
    assert "as copies are" not in write_headline(replace(verdict, novelty=Novelty.MEMORIZED))


def test_every_novelty_has_a_wording_of_its_own():
    assert set(sentences.NOVELTY) == {*Novelty, None}
    assert len(set(sentences.NOVELTY.values())) == len(sentences.NOVELTY)


@pytest.mark.parametrize(
    "decision, words",
    [
        (BETTER, "more accurate than"),
        (WORSE, "less accurate than"),
        (UNDECIDED, "not measurably different in accuracy from"),
    ],
)
def test_the_checkpoints_themselves_are_compared(decision, words):
    accuracy = f"Generated models are {words} the checkpoints themselves: {POINTS}."
    assert write_gain(make_verdict(comparison("original", decision))) == (
        f"{accuracy} Max IoU is 0.700 for p_diff and 0.600 for original, a difference of +0.100 (97.4% interval −0.013 "
        "to +0.212). Each checkpoint is compared with the other ones."
    )
    assert write_gain(make_verdict(comparison("original", decision, None))) == accuracy
    itself = make_verdict(comparison("original"))
    assert write_gain(replace(itself, reference="original")) == "", "the headline says it"


def test_copies_are_counted_and_measured_against_the_yardstick():
    verdict = make_verdict()
    assert write_copying(verdict) == (
        "5% of the generated models are copies, which lie much nearer to a checkpoint than held-out checkpoints lie "
        "to it, and much nearer than checkpoints lie to each other. Honest new checkpoints show up to 10%. The "
        "distance to the nearest checkpoint, relative to the median distance to all, is 0.71 in weights (a copy: "
        "below 0.50) and 0.66 in errors (a copy: below 0.40)."
    )
    steps = replace(verdict, yardstick=Yardstick(False, 40, 12, 0.5, None))
    assert "than checkpoints lie to each other (steps less than 12 apart are left out). " in write_copying(steps)
    assert write_copying(steps).endswith("is 0.71 in weights (a copy: below 0.50).")
    matched = replace(verdict, yardstick=Yardstick(False, 40, 0, 0.5, None, matched=True))
    assert write_copying(matched).endswith("is 0.71 in weights after matching hidden units (a copy: below 0.50).")
    none = replace(verdict, yardstick=None, closeness={})
    assert write_copying(none).startswith("Whether generated models are copies was not measured")


@pytest.mark.parametrize("behavior, spread, said", [
    (Behavior.AVERAGES, 0.9, " Generated models lie 0.99 times as far from the mean of the checkpoints, "
     "and 0.90 times as far from each other, as checkpoints do."),
    (Behavior.AVERAGES, None, " Generated models lie 0.99 times as far from the mean of the checkpoints, as "
     "checkpoints do."),
    (Behavior.COPIES, 0.9, "(a copy: below 0.40)."),
])  # fmt: skip
def test_the_distances_that_show_averages_are_told(behavior, spread, said):
    verdict = make_verdict(closeness={"p_diff": closeness(behavior, spread)})
    assert write_copying(verdict).endswith(said)


def test_trained_sources_are_told_apart_by_their_difference_with_what_they_cost():
    rows = [comparison("original"), comparison("finetuned_5", BETTER), comparison("finetuned_50", WORSE)]
    rows += [comparison("continued"), comparison("laplace")]
    verdict = make_verdict(*rows, costs={"finetuned_5": 5.0, "continued": 1234.5, "p_diff": 20.04})
    points = POINTS.replace("(", "[").replace(")", "]")
    assert write_trained(verdict) == (
        f"Among the sources that train further, p_diff is more accurate than finetuned_5 (checkpoints trained for 5 "
        f"more steps; {points}; 5 training steps per model), not measurably different in accuracy from continued "
        f"(later checkpoints of the same training; {points}; 1,230 training steps per model) and laplace (samples of "
        f"the Laplace posterior around the last checkpoint; {points}) and less accurate than finetuned_50 (checkpoints "
        f"trained for 50 more steps; {points}). Training the generator took 20 training steps for each generated model."
    )
    assert write_trained(make_verdict()) == ""


def test_free_sources_are_counted_by_their_outcome():
    rows = (
        comparison("original", BETTER, BETTER),
        comparison("ensemble", WORSE, UNDECIDED),
        comparison("gaussian", BETTER, WORSE),
        comparison("noised_0.05"),
        comparison("interpolated", UNDECIDED, BETTER, doubt=Doubt.UNCERTAIN),
        comparison("finetuned_5", BETTER),
    )
    verdict = make_verdict(*rows, accuracy=BETTER)
    assert {row.outcome for row in rows} == set(Outcome)
    assert write_outcomes(verdict) == (
        "Compared in accuracy and newness with the 6 sources that need no further training, p_diff dominates 2 "
        "(average_8, original), is dominated by 1 (ensemble), has a trade-off with 1 (gaussian) and ties with 2 "
        "(noised_0.05, interpolated). One source dominates another if it is measurably better in one and not "
        "measurably worse in the other."
    )


def test_without_masks_of_wrong_images_sources_are_counted_by_accuracy():
    assert write_outcomes(make_verdict(iou=None, answer=BETTER)) == (
        "Compared in accuracy with the 2 sources that need no further training, p_diff dominates 1 (average_8) and "
        "ties with 1 (original). One source dominates another if it is measurably more accurate."
    )


def test_the_method_says_how_the_reference_was_chosen_and_what_the_intervals_mean():
    verdict = make_verdict(interval_level=0.9741, draws=10_000, block_lengths={"original": 12, "continued": 1})
    assert write_method(verdict) == (
        "Of the sources that need no further training, average_8 is the most accurate on validation images. A "
        "difference is measurable if its interval excludes 0. The intervals come from 10,000 bootstrap draws of models "
        "and images. All but that of the headline's accuracy have a level of 97.4%, at which at most 5% of the "
        "differences called measurable are expected to be chance. Steps of one training are resampled in blocks of 12 "
        "(original)."
    )
    on_test = write_method(make_verdict(chosen_on="test"))
    assert on_test.startswith(
        "Of the sources that need no further training, average_8 is the most accurate on test images, which had to "
        "decide because not all were scored on validation. A difference"
    )


@pytest.mark.parametrize("level, text", [(0.95, "95%"), (0.9741, "97.4%"), (0.99875, "99.9%"), (0.99988, "99.99%")])
def test_a_level_is_never_rounded_to_100_percent(level, text):
    assert format_level(level) == text


@pytest.mark.parametrize(
    "kept, share",
    [
        (None, None),
        (1.0, None),
        (0.5, None),
        (0.49, "only 49%"),
        (0.006, "only 1%"),
        (0.005, "nothing"),
        (-0.005, "nothing"),
    ],
)
def test_an_autoencoder_that_keeps_less_than_half_of_the_variance_gives_a_caution(kept, share):
    verdict = make_verdict(variance_kept=kept)
    expected = share and (
        f"The autoencoder keeps {share} of the variance among the checkpoints, so generated models may be little more "
        "than the mean of the checkpoints. Set system/autoencoder=chunked or a larger system.autoencoder_steps."
    )
    assert write_caution(verdict) == expected
    content = word_verdict(verdict)
    assert content.get("caution") == expected and ("caution" in content) == (expected is not None)
    assert (expected in content["sentences"]) == (expected is not None)


def test_an_autoencoder_that_is_worse_than_the_mean_has_not_learned():
    caution = write_caution(make_verdict(variance_kept=-3))
    assert "has not learned" in caution and "farther from them than their mean" in caution
    assert "chunked" not in caution  # it would be another system, and a longer training is the first thing to try


@pytest.mark.parametrize(
    "source, expected",
    [
        ("original", "original (the checkpoints themselves)"),
        ("ensemble", "ensemble (the mean of all checkpoints)"),
        ("reconstructed", "reconstructed (the checkpoints, encoded and decoded)"),
        ("finetuned", "finetuned (checkpoints trained for a few more steps)"),
        ("finetuned_50", "finetuned_50 (checkpoints trained for 50 more steps)"),
        ("ema", "ema (the exponential moving average of the checkpoints)"),
        ("interpolated", "interpolated (points between two random checkpoints)"),
        ("gaussian", "gaussian (samples of a Gaussian with diagonal covariance)"),
        ("gaussian_full", "gaussian_full (samples of a Gaussian with full covariance)"),
        ("average_16", "average_16 (the mean of 16 random checkpoints)"),
        ("noised_0.05", "noised_0.05 (checkpoints plus Gaussian noise of 0.05 times each tensor's standard deviation)"),
        ("deep_ensemble", "deep_ensemble (whole networks trained from scratch with other seeds)"),
        ("average", "average (the mean of a few random checkpoints)"),
        ("another_3", "another_3"),
    ],
)
def test_a_source_is_explained_by_its_name(source, expected):
    assert explain(source) == expected


def test_a_difference_without_an_interval_is_worded_without_one():
    row = Comparison(Standing("original", 1, 0.9), Difference(-0.1, None, UNDECIDED), None)
    assert write_gain(make_verdict(row)).endswith("themselves: −10.00 percentage points.")


def test_a_maximum_iou_that_was_not_measured_cannot_be_worded():
    with pytest.raises(ValueError, match="gaussian"):
        format_max_iou(P_DIFF, comparison("gaussian", max_iou=None))


def test_there_are_at_most_seven_statements_and_the_headline_comes_first():
    verdict = make_verdict(comparison("original"), comparison("finetuned_5"), variance_kept=0.1)
    written = [write_headline, write_gain, write_copying, write_outcomes, write_trained, write_caution, write_method]
    assert write_statements(verdict) == [write(verdict) for write in written]
    assert len(write_statements(make_verdict())) == 5


def test_metrics_json_gets_the_verdict_with_its_sentences_and_a_caution_only_if_there_is_one():
    for verdict, caution in ((make_verdict(variance_kept=0.1), ["caution"]), (make_verdict(variance_kept=0.9), [])):
        content = word_verdict(verdict)
        assert list(content) == [*verdict.to_json(), *caution, "sentences"]
        assert {key: content[key] for key in verdict.to_json()} == verdict.to_json()
        assert content["sentences"] == write_statements(verdict)
        assert Verdict.from_json(json.loads(json.dumps(content, allow_nan=False))) == verdict


@pytest.mark.parametrize("behavior", [Behavior.SAMPLES, Behavior.COLLAPSED])
def test_models_far_outside_of_the_range_of_the_checkpoints_are_named(behavior):
    far = replace(closeness(behavior), deviation=1234.5)
    headline = write_headline(replace(make_verdict(), closeness={"p_diff": far}))
    assert "They lie 1.23e+03 times as far from the mean of the checkpoints as checkpoints do, far outside" in headline
    assert ("They are one model repeated." in headline) == (behavior is Behavior.COLLAPSED)
    near = replace(closeness(behavior), deviation=2.0)
    assert "far outside" not in write_headline(replace(make_verdict(), closeness={"p_diff": near}))
