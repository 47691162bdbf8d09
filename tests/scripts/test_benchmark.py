"""The benchmark's arithmetic; its times are never asserted."""

import torch

from scripts.benchmark import contest, sampling, scoring
from scripts.benchmark.__main__ import table
from scripts.benchmark.contest import Contest, measure


def test_ratios_are_taken_pair_by_pair_and_per_unit(monkeypatch):
    clock = iter([9, 9, 2, 30, 4, 20, 2, 40])  # a warm-up of both, then three pairs
    calls = []
    monkeypatch.setattr(contest, "seconds", lambda run: (run(), next(clock))[1])
    measured = measure(Contest("s", "c", "model", ours=lambda: calls.append("ours"), reference=lambda: calls.append("reference"), our_units=2), repeats=3)
    assert calls == ["ours", "reference"] * 4
    assert measured.ours == [1, 2, 1] and measured.reference == [30, 20, 40]
    assert measured.ratios == [30, 10, 40]
    row = measured.row()
    assert (row["ratio"], row["ratio_min"], row["ratio_max"]) == (30, 10, 40)
    assert (row["ours_seconds"], row["reference_seconds"]) == (1, 30)
    assert [cell.strip() for cell in table([row]).splitlines()[2].split("|")[1:-1]] == ["s", "c", "model", "1000.00", "30000.0", "30", "10–40"]


def test_the_scoring_contest_computes_the_same_logits_both_ways(monkeypatch):
    monkeypatch.setattr(scoring, "CASES", {"tiny": ("test_resnet", 1, 16)})
    (found,) = scoring.contests(torch.device("cpu"))
    assert found.facts["same_predictions"] and found.facts["largest_logit_difference"] <= 1e-5
    assert len(found.ours()) == found.our_units
    torch.testing.assert_close(found.ours()[0], found.reference(), rtol=0, atol=1e-5)


def test_both_sides_of_the_sampling_contest_sample_as_many_models_as_they_say(monkeypatch):
    monkeypatch.setattr(sampling, "NUM_MODELS", 3)
    found = next(iter(sampling.contests(torch.device("cpu"))))
    assert found.ours().shape == (3, 2048) and found.our_units == 3
    assert found.reference().shape == (1, 2048) and found.reference_units == 1
