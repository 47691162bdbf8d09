"""The wording of the verdict, checked on verdicts that are built directly."""

import json
from dataclasses import replace

import pytest

from core.evaluation.verdict import (
    Averaging,
    Comparison,
    Decision,
    Difference,
    Novelty,
    Outcome,
    Standing,
    Verdict,
)
from core.report import sentences
from core.report.sentences import (
    explain,
    format_max_iou,
    word_verdict,
    write_caution,
    write_gains,
    write_headline,
    write_outcomes,
    write_similarity,
    write_statements,
    write_strongest_baseline,
)

BETTER, WORSE, UNDECIDED = Decision.BETTER, Decision.WORSE, Decision.UNDECIDED
P_DIFF = Standing("p_diff", 30, 0.8, 0.7)
POINTS = "+1.00 percentage points (95% interval −0.50 to +2.50)"
OVERLAP = "The overlap of errors with the most similar checkpoint (max IoU) is 0.700 for p_diff and 0.600 for average_8"


def difference(decision, value=0.01):
    """Return a difference of accuracies, whose numbers need not match its decision."""
    return Difference(value, (value - 0.015, value + 0.015), decision)


def comparison(source, accuracy=UNDECIDED, max_iou=UNDECIDED, mean=0.75):
    """Return a comparison of p_diff with one source; `max_iou=None` means that max IoU was not measured."""
    if max_iou is None:
        return Comparison(Standing(source, 30, mean), difference(accuracy), None)
    return Comparison(
        Standing(source, 30, mean, 0.6), difference(accuracy), Difference(0.1, (-0.0125, 0.2125), max_iou)
    )


def make_verdict(average=UNDECIDED, original=UNDECIDED, *, iou=UNDECIDED, original_iou=UNDECIDED, near=0.0, **changes):
    """Return a verdict with these decisions of the comparisons with `average_8` and `original`."""
    return Verdict(
        **{
            "p_diff": P_DIFF if iou else Standing("p_diff", 30, 0.8),
            "comparisons": (
                comparison("original", original, original_iou),
                comparison("average_8", average, iou),
            ),
            "averaging": (Averaging("average_8", difference(original), difference(UNDECIDED), difference(average)),),
            "best_average": "average_8",
            "near_copies": {"p_diff": near, "average_8": 0.0},
            **changes,
        }
    )


@pytest.mark.parametrize(
    "decision, answer",
    [
        (BETTER, "Yes, the generated models (p_diff) are more accurate than averages of checkpoints: "),
        (WORSE, "No, the generated models (p_diff) are less accurate than averages of checkpoints: "),
        (
            UNDECIDED,
            "No, the generated models (p_diff) are not measurably more accurate than averages of checkpoints: ",
        ),
    ],
)
def test_the_headline_answers_whether_p_diff_beats_an_average(decision, answer):
    headline = write_headline(make_verdict(decision))
    assert headline.startswith(f"{answer}{POINTS} compared with average_8 (the mean of 8 random checkpoints). They ")


@pytest.mark.parametrize(
    "average, original, is_worse",
    [(BETTER, WORSE, True), (BETTER, UNDECIDED, False), (BETTER, BETTER, False), (UNDECIDED, WORSE, False)],
)
def test_the_headline_adds_if_p_diff_beats_the_average_but_not_the_checkpoints(average, original, is_worse):
    added = f" But they are less accurate than the checkpoints themselves: {POINTS}. "
    assert (added in write_headline(make_verdict(average, original))) == is_worse


@pytest.mark.parametrize(
    "iou, near, novelty, sentence",
    [
        (WORSE, 1.0, Novelty.MEMORIZED, "They are memorized, not new: most of them are near-copies of a checkpoint."),
        (
            WORSE,
            0.0,
            Novelty.CLOSER,
            "They are not new: they repeat the errors of a checkpoint more than averages do.",
        ),
        (UNDECIDED, 0.0, Novelty.AS_CLOSE, "They are not measurably newer than averages."),
        (
            BETTER,
            1.0,
            Novelty.NEAR_COPIES,
            "Most of them are near-copies of a checkpoint in their weights, "
            "although they repeat its errors less than averages do.",
        ),
        (
            BETTER,
            0.0,
            Novelty.NEWER,
            "They are newer than averages: they repeat the errors of a checkpoint less.",
        ),
    ],
)
def test_the_headline_answers_whether_p_diff_is_new(iou, near, novelty, sentence):
    verdict = make_verdict(iou=iou, near=near)
    assert verdict.novelty is novelty
    evidence = f"{OVERLAP}, a difference of +0.100 (95% interval −0.013 to +0.212)."
    assert write_headline(verdict).endswith(f"checkpoints). {sentence} {evidence}")


def test_every_decision_and_novelty_has_a_wording():
    assert set(sentences.ANSWERS) == set(Decision) and set(sentences.NOVELTY) == {*Novelty, None}
    for wordings in (sentences.ANSWERS, sentences.NOVELTY):
        assert len(set(wordings.values())) == len(wordings)


def test_no_novelty_is_claimed_without_masks_of_wrong_images():
    verdict = make_verdict(iou=None, original_iou=None)
    assert write_headline(verdict).endswith("checkpoints). It was not measured whether they are new.")
    assert not any("IoU" in statement or "novelty" in statement for statement in write_statements(verdict))


def test_the_headline_names_the_best_average():
    verdict = make_verdict(comparisons=(comparison("original"), comparison("ensemble")), best_average="ensemble")
    assert f"{POINTS} compared with ensemble (the mean of all checkpoints). " in write_headline(verdict)


@pytest.mark.parametrize(
    "p_diff, average, between, change, change_of_average, conclusion",
    [
        (BETTER, WORSE, BETTER, "a gain", "a loss", "p_diff does better than averaging"),
        (WORSE, UNDECIDED, WORSE, "a loss", "no measurable change", "p_diff does worse than averaging"),
        (UNDECIDED, BETTER, UNDECIDED, "no measurable change", "a gain", "The two are not measurably different"),
    ],
)
def test_the_gain_is_compared_with_the_gain_of_averaging(
    p_diff, average, between, change, change_of_average, conclusion
):
    rows = (
        Averaging("average_2", *(difference(UNDECIDED, 0.5),) * 3),
        Averaging("average_8", difference(p_diff, 0.02), difference(average, -0.01), difference(between, 0.03)),
    )
    assert write_gains(make_verdict(averaging=rows)) == (
        f"Compared with the checkpoints, p_diff shows {change} in accuracy: "
        "+2.00 percentage points (95% interval +0.50 to +3.50). "
        f"Averaging the checkpoints (average_8) shows {change_of_average}: "
        "−1.00 percentage points (95% interval −2.50 to +0.50). "
        f"{conclusion}: +3.00 percentage points (95% interval +1.50 to +4.50)."
    )


@pytest.mark.parametrize(
    "decision, number, difference",
    [
        (BETTER, "fewer errors", "than checkpoints do"),
        (WORSE, "more errors", "than checkpoints do"),
        (UNDECIDED, "about as many errors", "as checkpoints do, without a measurable difference"),
    ],
)
def test_similarity_in_errors_is_compared_with_that_between_checkpoints(decision, number, difference):
    assert write_similarity(make_verdict(original_iou=decision, near_copies={})) == (
        f"Generated models share {number} with their most similar checkpoint {difference}. Max IoU is 0.700 for p_diff "
        "and 0.600 for original, a difference of +0.100 (95% interval −0.013 to +0.212)."
    )


def test_near_copies_are_compared_with_those_among_averages():
    near_copies = {"p_diff": 0.251, "average_8": 0.5, "average_16": 1.0}
    expected = (
        "In weights, a near-copy is closer to a checkpoint than any two checkpoints are to each other. "
        "Near-copies make up 25% of p_diff, compared with 50% of average_8 and 100% of average_16."
    )
    verdict = make_verdict(original_iou=None, near_copies=near_copies)
    assert write_similarity(verdict) == expected
    assert write_similarity(replace(verdict, comparisons=make_verdict().comparisons)).endswith(f"). {expected}")


def test_nothing_is_said_of_similarity_to_a_single_checkpoint():
    verdict = make_verdict(original_iou=None, near_copies={})
    assert write_similarity(verdict) == "" and "" not in write_statements(verdict)


@pytest.mark.parametrize(
    "decision, conclusion",
    [
        (BETTER, "p_diff is more accurate"),
        (WORSE, "p_diff is less accurate"),
        (UNDECIDED, "The difference is not measurable"),
    ],
)
def test_the_most_accurate_baseline_is_named(decision, conclusion):
    rows = (comparison("original", mean=0.6), comparison("finetuned", decision, mean=0.9), comparison("gaussian"))
    assert write_strongest_baseline(make_verdict(comparisons=rows)) == (
        "The most accurate baseline is finetuned (checkpoints trained for a few more steps). "
        f"It reaches a mean test accuracy of 90.00%, and p_diff reaches 80.00%. {conclusion}: {POINTS}."
    )


def test_all_baselines_are_counted_by_their_outcome():
    rows = (
        comparison("original", BETTER, BETTER),
        comparison("ensemble", WORSE, UNDECIDED),
        comparison("gaussian", BETTER, WORSE),
        comparison("noised_0.05"),
        comparison("average_8", BETTER, UNDECIDED),
    )
    assert {row.outcome for row in rows} == set(Outcome)
    definition = "One source dominates another if it is measurably better in one and worse in neither."
    assert write_outcomes(make_verdict(comparisons=rows)) == (
        "Compared with 5 baselines in accuracy and novelty (lower max IoU), p_diff dominates 2 (original, average_8), "
        f"is dominated by 1 (ensemble), has a trade-off with 1 (gaussian) and ties with 1 (noised_0.05). {definition} "
        "A difference is measurable if its 95% interval excludes 0."
    )


def test_without_masks_of_wrong_images_baselines_are_counted_by_accuracy():
    assert write_outcomes(make_verdict(BETTER, iou=None, original_iou=None)) == (
        "Compared with 2 baselines in accuracy, p_diff dominates 1 (average_8) and ties with 1 (original). "
        "One source dominates another if it is measurably more accurate. "
        "A difference is measurable if its 95% interval excludes 0."
    )


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
        ("interpolated", "interpolated (points between two random checkpoints)"),
        ("gaussian", "gaussian (samples of a Gaussian with diagonal covariance)"),
        ("gaussian_full", "gaussian_full (samples of a Gaussian with full covariance)"),
        ("average_16", "average_16 (the mean of 16 random checkpoints)"),
        ("noised_0.05", "noised_0.05 (checkpoints plus noise of 0.05 times each tensor's standard deviation)"),
        ("average", "average"),
        ("another_3", "another_3"),
    ],
)
def test_a_source_is_explained_by_its_name(source, expected):
    assert explain(source) == expected


def test_a_difference_without_an_interval_is_worded_without_one():
    row = Comparison(Standing("original", 1, 0.9), Difference(-0.1, None, UNDECIDED), None)
    assert write_strongest_baseline(make_verdict(comparisons=(row,))).endswith(
        "The difference is not measurable: −10.00 percentage points."
    )


def test_a_maximum_iou_that_was_not_measured_cannot_be_worded():
    with pytest.raises(ValueError, match="gaussian"):
        format_max_iou(P_DIFF, comparison("gaussian", max_iou=None))


def test_the_statements_are_the_headline_then_gains_similarity_strongest_baseline_caution_and_outcomes():
    verdict = make_verdict(variance_kept=0.1)
    assert write_statements(verdict) == [
        write(verdict)
        for write in (
            write_headline,
            write_gains,
            write_similarity,
            write_strongest_baseline,
            write_caution,
            write_outcomes,
        )
    ]
    assert len(write_statements(make_verdict())) == 5


def test_metrics_json_gets_the_verdict_with_its_sentences_and_a_caution_only_if_there_is_one():
    for verdict, caution in ((make_verdict(variance_kept=0.1), ["caution"]), (make_verdict(variance_kept=0.9), [])):
        content = word_verdict(verdict)
        assert list(content) == [*verdict.to_json(), *caution, "sentences"]
        assert {key: content[key] for key in verdict.to_json()} == verdict.to_json()
        assert content["sentences"] == write_statements(verdict)
        assert Verdict.from_json(json.loads(json.dumps(content, allow_nan=False))) == verdict


def test_every_statement_differs_between_a_good_and_a_bad_verdict():
    good = make_verdict(BETTER, BETTER, iou=BETTER, original_iou=BETTER)
    bad = make_verdict(WORSE, WORSE, iou=WORSE, original_iou=WORSE, near=1.0)
    mixed = make_verdict(UNDECIDED, UNDECIDED, near=0.2)
    for versions in zip(*map(write_statements, (good, bad, mixed)), strict=True):
        assert len(set(versions)) == 3
