"""Tests of the GPU check on a CPU: its plan, its parts as processes, its arithmetic. `--rehearse` runs the parts."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.autograd import DeviceType
from torchvision.datasets import CIFAR100

from scripts.gpu_check import __main__ as command
from scripts.gpu_check import packages
from scripts.gpu_check.archives import write_cifar100
from scripts.gpu_check.findings import Findings, format_table
from scripts.gpu_check.parts import PARTS, Part
from scripts.gpu_check.profile import count_calls_per_unit, rank_by_time, sum_busy_seconds
from scripts.gpu_check.running import read_tail
from scripts.gpu_check.scoring import count_suffix_flops
from scripts.gpu_check.subjects import make_resnet18
from tasks.data.torchvision_sets import skip_checksums

ROOT = Path(__file__).parents[2]
NAMES = [part.name for part in PARTS]


def called(monkeypatch, *words):
    """Run the command in this process; return its exit status or its error."""
    monkeypatch.setattr(sys, "argv", ["gpu_check", *words])
    try:
        return command.main()
    except SystemExit as stop:
        return stop.code


def test_without_a_gpu_it_describes_each_part_and_says_that_nothing_was_measured(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert called(monkeypatch, "--out", str(tmp_path / "out")) == 0
    printed = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines() if line.startswith("| ")]
    assert (
        [row[0] for row in rows[1:]]
        == NAMES
        == ["tests", "quickstart", "cifar100", "vit_base", "scoring", "training", "profile", "releases"]
    )
    assert all(row[2] == ("30 min" if row[0] == "releases" else "8 min") and row[1] and row[3] for row in rows[1:])
    last = printed.splitlines()[-1]
    assert "Nothing was measured" in last and "--rehearse" in last
    assert not (tmp_path / "out").exists()


def test_only_the_chosen_parts_are_planned(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert called(monkeypatch, "--only", "profile", "--only", "scoring") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [line.split("|")[1].strip() for line in lines[1:]] == ["scoring", "profile"]


def test_an_unknown_part_is_refused_with_the_known_parts(monkeypatch):
    error = called(monkeypatch, "--only", "scorign")
    assert error == f"error: --only scorign is unknown. Set --only to one of {', '.join(NAMES)}"


@pytest.mark.parametrize("name", NAMES)
def test_every_part_has_a_module_of_its_own(name):
    assert callable(importlib.import_module(f"scripts.gpu_check.{name}").run)


BREAKS = "import sys; print('the reason'); sys.exit(3)"
HANGS = """
import subprocess, sys, time
child = subprocess.Popen(["sleep", "60"])
open(sys.argv[1] + ".pid", "w").write(str(child.pid))
time.sleep(60)
"""
WORKS = """
import json, sys
found = {"tables": [{"title": "speed", "rows": [{"case": "a", "ms": 1.5}]}], "failures": []}
json.dump(found, open(sys.argv[1], "w"))
"""


def alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for the process in /proc")
def test_a_part_that_fails_or_overruns_does_not_stop_the_next_one(tmp_path, capsys):
    python = (sys.executable, "-S", "-c")
    parts = [
        Part("breaks", "fails at once", command=(*python, BREAKS)),
        Part("hangs", "never ends", limit_s=1.0, command=(*python, HANGS)),
        Part("works", "ends well", "a goal", command=(*python, WORKS)),
    ]
    assert command.check(parts, tmp_path / "out", rehearse=True) == 1
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    for words in (["breaks", "failed"], ["hangs", "overran", "1 s"], ["works", "passed"]):
        assert any(line.startswith("[") and all(word in line for word in words) for line in lines), words
    assert "    the reason" in lines
    assert all(
        f"{tmp_path}/out/{name}.log" in lines[-1] and f"--only {name}" in lines[-1] for name in ("breaks", "hangs")
    )
    assert "works" not in lines[-1]

    found = json.loads((tmp_path / "out/gpu_check.json").read_text())
    assert {part["part"]: part["result"] for part in found["parts"]} == {
        "breaks": "failed",
        "hangs": "overran",
        "works": "passed",
    }
    assert found["rehearsal"] and {"git", "versions", "device", "driver", "time"} <= set(found["machine"])
    assert found["parts"][2]["tables"][0]["rows"] == [{"case": "a", "ms": 1.5}]
    page = (tmp_path / "out/gpu_check.md").read_text()
    assert "rehearsal" in page and "| a    | 1.5 |" in page and page.rstrip() in printed
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.suffix != ".pid") == [
        "breaks.log",
        "gpu_check.json",
        "gpu_check.md",
        "hangs.log",
        "works.log",
    ]
    assert not alive(int((tmp_path / "out/hangs.json.pid").read_text())), (
        "a process of the part that overran is still running"
    )


def test_the_status_is_zero_when_every_part_passes(tmp_path):
    assert (
        command.check(
            [Part("works", "ends well", command=(sys.executable, "-S", "-c", WORKS))], tmp_path, rehearse=True
        )
        == 0
    )


def test_without_any_package_it_names_the_missing_ones_and_how_to_install_them():
    result = subprocess.run(
        [sys.executable, "-S", "-m", "scripts.gpu_check"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 1 and result.stdout == "" and "Traceback" not in result.stderr
    for name in ("torch", "hydra-core", "omegaconf", "diffusers", "timm"):
        assert f"{name}>=" in result.stderr
    assert "pip download" in result.stderr and "selenium" not in result.stderr


def test_the_package_without_a_wheel_is_to_be_built(monkeypatch):
    versions = dict.fromkeys(("diffusers", "hydra-core", "antlr4-python3-runtime")) | {
        "timm": "1.0.9",
        "torch": "2.11.0+cu130",
    }
    installed = packages.importlib.metadata.version

    def version(name):
        if versions.get(name, name) is None:
            raise packages.importlib.metadata.PackageNotFoundError(name)
        return versions.get(name) or installed(name)

    monkeypatch.setattr(packages.importlib.metadata, "version", version)
    wrong = packages.find_missing_packages()
    assert wrong == {
        "hydra-core>=1.3.2": "missing",
        "timm>=1.0.29": "found 1.0.9",
        "diffusers>=0.35": "missing",
        packages.ANTLR: "missing",
    }
    error = called(monkeypatch)
    (download,) = (line for line in error.splitlines() if "pip download" in line)
    (build,) = (line for line in error.splitlines() if "pip wheel" in line)
    assert "'diffusers>=0.35'" in download and "antlr4" not in download and "antlr4-python3-runtime==4.9.3" in build


def test_the_shell_script_takes_the_python_it_is_given():
    environment = {**os.environ, "PYTHON": sys.executable}
    result = subprocess.run(
        ["bash", str(ROOT / "scripts/gpu_check.sh"), "--only", "x"],
        env=environment,
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 1 and result.stderr.startswith("error: --only x ")


def test_torchvision_reads_the_archive_as_cifar100(tmp_path):
    write_cifar100(tmp_path, per_class=3, test_per_class=1, wrong_labels=0.5)
    with skip_checksums():
        train, test = (CIFAR100(tmp_path, train=train, download=True) for train in (True, False))
    assert (train.data.shape, test.data.shape) == ((300, 32, 32, 3), (100, 32, 32, 3)) and len(train.classes) == 100
    assert sum(count != 3 for count in np.bincount(train.targets, minlength=100)) > 20, "no label was drawn anew"


def test_a_case_that_fails_is_recorded_and_the_next_one_runs(tmp_path, capsys):
    findings = Findings(tmp_path / "part.json")
    assert findings.attempt("division", lambda: 1 / 0) is None and findings.attempt("sum", lambda: 1 + 1) == 2
    findings.add_table("t", [{"case": "a"}])
    findings.add_table("t", [{"case": "a", "ms": 0.00123456}, {"case": "b", "ms": None, "steps": 12345}])
    stored = json.loads((tmp_path / "part.json").read_text())
    assert (
        stored["failures"] == [{"case": "division", "error": "ZeroDivisionError: division by zero"}]
        and len(stored["tables"]) == 1
    )
    lines = format_table(stored["tables"][0]).splitlines()
    assert lines[2:3] + lines[4:] == [
        "| case |      ms |  steps |",
        "| a    | 0.00123 |      – |",
        "| b    |       – | 12,345 |",
    ]
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_the_arithmetic_of_scoring_is_that_of_the_suffix():
    subject = make_resnet18(rehearse=False, num_models=1, num_images=2)
    convolution, head = 2 * 512 * 512 * 9 * 16, 2 * 512 * 100
    assert count_suffix_flops(subject) == convolution + head
    assert 200 * 10_000 * count_suffix_flops(subject) == pytest.approx(151e12, rel=0.01)


def test_kernels_that_overlap_keep_the_gpu_busy_once():
    assert sum_busy_seconds([(10, 20), (0, 5), (15, 30), (16, 18)]) == pytest.approx(25e-6)
    rows = rank_by_time([("a", 10.0), ("b|" + "x" * 100, 80.0), ("a", 10.0)], units=2)
    assert (
        [row["ms per unit"] for row in rows] == [0.04, 0.01]
        and [row["share, %"] for row in rows] == [80, 20]
        and rows[1]["calls per unit"] == 1
    )
    assert rows[0]["name"].startswith("b¦x") and len(rows[0]["name"]) == 80


def test_waits_copies_and_launches_are_counted_by_the_calls_of_the_host():
    names = ["cudaMemcpyAsync", "cudaStreamSynchronize", "cudaLaunchKernelExC", "cuLaunchKernel", "cudaMalloc"]
    events = [SimpleNamespace(name=name, device_type=DeviceType.CPU) for name in names]
    events.append(SimpleNamespace(name="cudaMemcpy of a kernel", device_type=DeviceType.CUDA))
    expected = {"copies per unit": 0.5, "cudaStreamSynchronize per unit": 0.5, "launches per unit": 1.0}
    assert count_calls_per_unit(events, units=2) == expected


def test_the_tail_of_a_log_shows_the_last_state_of_a_progress_bar(tmp_path):
    (tmp_path / "part.log").write_text("first\n 1/9\r 5/9\r 9/9\nlast\n")
    assert read_tail(tmp_path / "part.log") == "    first\n     9/9\n    last"
