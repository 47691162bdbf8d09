"""The first screen: facts of the run that its files hold, and the verdict's numbers."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from core.evaluation.copying import Behavior, Closeness
from core.evaluation.scores import Scores, ScoreTable
from core.evaluation.verdict import Comparison, Decision, Difference, Doubt, Standing, Verdict
from core.report.overview import choose_key_numbers, describe_run
from core.report.run_files import RunFiles

CONFIG = {
    "task": {
        "data": {"dataset": "digits"},
        "model": {"name": "resnet18"},
        "param": {"k": 40, "subset": "last_norms", "count": 2},
    },
    "system": {
        "name": "ae_ddpm",
        "autoencoder": {"_target_": "core.networks.autoencoder.ConvAutoencoder"},
        "denoiser": {"_target_": "core.networks.denoiser.MLPDenoiser"},
        "sampler": {"num_steps": 20},
    },
}
METRICS = {"table": [{"source": "original", "n": 40}, {"source": "p_diff", "n": 24}, {"source": "ensemble", "n": 1}]}
ORIGINALS = ScoreTable(
    "original", np.zeros((40, 1234)), {"test": Scores(np.zeros(40), np.zeros(40), np.zeros((40, 567), bool))}, "id", 1.0
)


def test_all_facts_are_those_of_the_run():
    told = describe_run(RunFiles(Path("run"), METRICS, config=CONFIG, tables={"original": ORIGINALS}))
    for name, facts in {
        "Trained": ("resnet18", "digits", "K = 40", "D = 1,234", "last 2 normalization layers"),
        "Generated": ("M = 24", "ae_ddpm", "ConvAutoencoder", "MLPDenoiser", "20"),
        "Measured": ("567", " 2 "),
    }.items():
        assert all(fact in told[name] for fact in facts), (name, told[name])


@pytest.mark.parametrize("subset, named", [("all", "every"), (["layer4.*", "fc.*"], "layer4.*, fc.*")])
def test_other_subsets_are_named(subset, named):
    config = CONFIG | {"task": CONFIG["task"] | {"param": {"subset": subset}}}
    assert named in describe_run(RunFiles(Path("run"), METRICS, config=config))["Trained"]


def test_a_vae_has_no_denoiser_and_no_sampler():
    system = {"name": "vae", "autoencoder": {"_target_": "a.VAE"}, "denoiser": None, "sampler": None}
    generated = describe_run(RunFiles(Path("run"), METRICS, config=CONFIG | {"system": system}))["Generated"]
    assert "vae" in generated and "VAE" in generated and "None" not in generated and "steps" not in generated


def test_facts_that_no_file_holds_are_left_out():
    told = describe_run(RunFiles(Path("run"), {"table": [{"source": "gaussian", "n": 3}]}))
    assert len(told) == 3 and all(sentence.endswith(".") and "None" not in sentence for sentence in told.values())


VERDICT = Verdict(
    p_diff=Standing("p_diff", 24, 0.9, 0.8),
    comparisons=(
        Comparison(
            Standing("average_16", 9, 0.89, 0.85),
            Difference(0.01, (0.005, 0.02), Decision.BETTER),
            Difference(-0.05, (-0.1, 0.01), Decision.UNDECIDED),
        ),
    ),
    reference="average_16",
    answer=Decision.BETTER,
    closeness={
        "p_diff": Closeness("p_diff", 0.5, 0.5, 0.25, 0.9, 0.8, 0.1, Behavior.SAMPLES),
        "average_16": Closeness("average_16", 0.9, 0.9, 0.0, 0.3, 0.2, 0.0, Behavior.AVERAGES),
    },
)


def test_the_key_numbers_are_those_of_the_verdict():
    accuracy, iou, copies = choose_key_numbers(VERDICT)
    assert (accuracy.value, accuracy.tone) == ("+1.00 points", "good") and "+0.50 to +2.00" in accuracy.detail
    assert (iou.value, iou.tone) == ("−0.050", "neutral") and "−0.100 to +0.010" in iou.detail
    assert "0.800" in iou.detail and "0.850" in iou.detail
    assert (copies.value, copies.tone) == ("25%", "bad") and "up to 10%" in copies.detail


def test_a_lower_max_iou_that_lower_accuracy_explains_is_not_called_newer():
    difference = Difference(-0.3, (-0.4, -0.2), Decision.BETTER, level=0.964)
    against = replace(VERDICT.comparisons[0], max_iou=difference)
    meanings = []
    for doubt in Doubt:
        _, iou, _ = choose_key_numbers(replace(VERDICT, comparisons=(replace(against, doubt=doubt),)))
        assert "newer" not in iou.meaning and "96.4% interval" in iou.detail and iou.tone == "neutral"
        meanings.append(iou.meaning)
    assert meanings == [
        "lower, but less accurate",
        "lower; accuracy too uncertain to tell",
        "lower, but most models are copies",
        "lower, but relative κ is not measurably",
    ]
    _, iou, _ = choose_key_numbers(replace(VERDICT, comparisons=(against,)))
    assert (iou.meaning, iou.tone) == ("newer", "good")
    worse = replace(against, max_iou=difference.swap(), doubt=Doubt.ACCURACY)
    _, iou, _ = choose_key_numbers(replace(VERDICT, comparisons=(worse,)))
    assert (iou.meaning, iou.tone) == ("higher, but more accurate", "neutral")


def test_copies_are_shown_as_bad():
    for copies, tone in ((1.0, "bad"), (0.16, "bad"), (0.15, "neutral")):
        closeness = replace(VERDICT.closeness["p_diff"], copies=copies)
        number = choose_key_numbers(replace(VERDICT, closeness={"p_diff": closeness}))[-1]
        assert (number.value, number.tone) == (f"{100 * copies:.0f}%", tone)


def test_numbers_that_the_verdict_lacks_are_left_out():
    bare = replace(VERDICT, comparisons=(replace(VERDICT.comparisons[0], max_iou=None),), closeness={})
    assert [number.value for number in choose_key_numbers(bare)] == ["+1.00 points"]
    assert choose_key_numbers(None) == []
