"""Tests of the benchmark: its arithmetic, and that both sides of a contest do the same work. Times are not checked."""

import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from core.checkpoints.checkpoint_set import CheckpointSet
from core.networks.autoencoder import ConvAutoencoder
from core.networks.denoiser import MLPDenoiser
from core.networks.linear_autoencoders import ChunkedAutoencoder
from core.runtime.artifacts import read_json
from scripts.benchmark import __main__ as command
from scripts.benchmark import contest, growth, loading, sampling, scoring, training
from scripts.benchmark.__main__ import format_table
from scripts.benchmark.contest import Contest, Cost, measure, measure_cost, read_peak, reset_peak

CPU = torch.device("cpu")


def test_ratios_are_taken_pair_by_pair_and_per_unit(monkeypatch):
    costs = iter(
        [
            Cost(seconds, peak)
            for seconds, peak in ((9, 99), (9, 99), (2, 5), (30, 7), (4, None), (20, 8), (2, 6), (40, 1))
        ]
    )  # one warm-up of both sides, then three pairs
    calls = []
    monkeypatch.setattr(contest, "measure_cost", lambda run, device: (run(), next(costs))[1])
    sides = {"ours": lambda: calls.append("ours"), "reference": lambda: calls.append("reference")}
    row = measure(Contest("s", "c", "model", **sides, our_units=2), 3, CPU).row()
    assert calls == ["ours", "reference"] * 4
    assert (row["ratio"], row["ratio_min"], row["ratio_max"]) == (30, 10, 40)
    assert (row["ours_seconds"], row["reference_seconds"]) == (1, 30)
    assert (row["ours_peak_bytes"], row["reference_peak_bytes"]) == (6, 8)
    cells = [
        cell.strip()
        for cell in format_table([{**row, "ours_peak_bytes": 6e6, "reference_peak_bytes": None}])
        .splitlines()[2]
        .split("|")[1:-1]
    ]
    assert cells == ["c", "model", "1e+03", "3e+04", "30", "10–40", "6", "–"]


def called(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["benchmark", *words])
    command.main()


def test_the_tables_and_the_files_of_a_stage_are_named_in_the_last_line(monkeypatch, capsys, tmp_path):
    case = Contest("loading", "a case", "call", ours=lambda: None, reference=lambda: None)
    monkeypatch.setitem(command.CONTESTS, "loading", SimpleNamespace(make_contests=lambda device: [case]))
    called(monkeypatch, "loading", "--repeats", "1", "--accelerator", "cpu", "--out", str(tmp_path))
    printed = capsys.readouterr().out
    page = (tmp_path / "benchmark.md").read_text()
    assert "## loading" in page and "| a case |" in page and page in printed
    (row,) = read_json(tmp_path / "benchmark.json")["loading"]
    assert row["case"] == "a case" and row["ours_seconds"] > 0
    last = printed.splitlines()[-1]
    assert f"{tmp_path}/benchmark.md" in last and f"{tmp_path}/benchmark.json" in last


def test_without_a_folder_no_file_is_written_and_the_last_line_says_so(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(command.CONTESTS, "loading", SimpleNamespace(make_contests=lambda device: []))
    called(monkeypatch, "loading", "--accelerator", "cpu")
    assert "--out" in capsys.readouterr().out.splitlines()[-1] and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words, named", [(["lodaing"], "lodaing"), (["--repeats", "0"], "--repeats 0"), (["samplers"], "--run")]
)
def test_a_wrong_argument_ends_the_benchmark(monkeypatch, capsys, words, named):
    with pytest.raises(SystemExit) as stopped:
        called(monkeypatch, *words)
    assert stopped.value.code == 2 and named in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system cannot reset the peak of memory")
def test_the_peak_of_a_call_leaves_out_earlier_calls():
    def large():
        return np.ones(50_000_000).sum()  # 400 MB

    assert measure_cost(large, CPU).peak_bytes > 3.5e8
    small = measure_cost(lambda: np.ones(1000).sum(), CPU)
    assert small.peak_bytes < 1e8 and small.seconds > 0


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system cannot reset the peak of memory")
def test_a_measurement_on_the_cpu_reads_the_memory_of_the_process_even_if_there_is_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name in ("synchronize", "reset_peak_memory_stats", "memory_allocated", "max_memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: pytest.fail("the GPU was asked"))
    assert measure_cost(lambda: np.ones(50_000_000).sum(), CPU).peak_bytes > 3.5e8
    assert reset_peak(CPU) > 1e6 and read_peak(CPU) > 1e6


def test_the_scoring_contest_computes_the_same_logits_both_ways(monkeypatch):
    monkeypatch.setattr(scoring, "CASES", {"tiny": ("test_resnet", 1, 16)})
    (found,) = scoring.make_prefix_contests(CPU)
    assert found.facts["same_predictions"] and found.facts["largest_logit_difference"] <= 1e-5
    assert len(found.ours()) == found.our_units
    torch.testing.assert_close(found.ours()[0], found.reference(), rtol=0, atol=1e-5)


def test_whole_networks_give_the_same_logits_both_ways(monkeypatch):
    monkeypatch.setattr(scoring, "WHOLE_BATCH", 4)
    monkeypatch.setattr(scoring, "NUM_WHOLE", 3)
    for found in scoring.make_whole_network_contests(CPU):
        ours, reference = found.ours(), found.reference()
        assert len(ours) == len(reference) == found.our_units == found.reference_units == 3
        torch.testing.assert_close(ours, torch.stack(reference), rtol=0, atol=1e-5)


def test_both_sides_of_the_loading_contest_read_the_same_rows(monkeypatch):
    monkeypatch.setattr(loading, "CASES", {"tiny": 7})
    for found in loading.make_contests(CPU):
        assert found.our_units == found.reference_units == 20
        found.ours()
        files = found.reference.args[0]
        torch.testing.assert_close(
            loading.OneFilePerCheckpoint(files)[3], CheckpointSet.load(found.ours.args[0]).vectors_KD[3]
        )


@pytest.mark.parametrize("kind", [ChunkedAutoencoder, ConvAutoencoder])
def test_growth_trains_from_a_file_and_returns_time_and_memory(tmp_path, kind):
    growth.write_checkpoints(tmp_path / "checkpoints.safetensors", 12, 500)
    found = growth.train(kind, 2, tmp_path / "checkpoints.safetensors", device=CPU)
    assert found["step_seconds"] > 0 and found["peak_bytes"] > 1e6
    row = {"k": 12, "d": 500, "file_bytes": 1000, **{f"chunked_{name}": value for name, value in found.items()}}
    assert growth.format_table([row]).splitlines()[2].split("|")[2].strip() == "500"


def test_lightning_and_the_bare_loop_train_the_same_network_for_the_same_steps(monkeypatch):
    steps = []
    make = partial(training.make_diffusion_module, partial(MLPDenoiser, hidden_dim=8, num_blocks=1))

    def watched(**options):
        module = make(**options)
        loss = module.loss
        module.loss = lambda rows_B: steps.append(len(rows_B)) or loss(rows_B)
        return module

    training.train_with_lightning(watched, 4, CPU)
    training.train_with_bare_loop(watched, 4, CPU)
    assert steps == [50] * 8


def test_both_sides_of_the_sampling_contest_sample_as_many_models_as_they_say(monkeypatch):
    monkeypatch.setattr(sampling, "NUM_MODELS", 3)
    found = next(iter(sampling.make_contests(CPU)))
    assert found.ours().shape == (3, 2048) and found.our_units == 3
    assert found.reference().shape == (1, 2048) and found.reference_units == 1
