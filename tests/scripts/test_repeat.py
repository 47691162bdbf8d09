"""A repeated run: its commands come from the provenance, and a number that differs is found."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from core.runtime.arrays import save_arrays
from core.runtime.artifacts import save_artifact, write_json
from core.runtime.errors import UserError
from scripts import repeat
from scripts.prove.comparison import compare_folders
from scripts.repeat import compare_machines, read_commands, replace_places

PROVENANCE = {"time": "2026-01-01", "git": {"commit": "a"}, "versions": {"torch": "2.11"}, "threads": 3}
COMMAND = ["train_p_diff.py", "seed=3", "output_dir=elsewhere", "task.param.path=elsewhere.safetensors"]


@pytest.fixture
def run(tmp_path) -> Path:
    """Make a folder with the files of a run that the comparison reads, and its checkpoints file."""
    folder = tmp_path / "run"
    write_json(folder / "provenance.json", {"train": {**PROVENANCE, "command": COMMAND}})
    OmegaConf.save({"task": {"param": {"path": str(tmp_path / "checkpoints.safetensors")}}}, folder / "config.yaml")
    write_json(
        folder / "metrics.json", {"table": [{"source": "p_diff", "accuracy_mean": 0.5}], "seconds": {"score": 1}}
    )
    save_arrays(folder / "scores/p_diff.npz", {"vectors": np.arange(6.0), "seconds": np.array(1.5)})
    save_artifact(folder / "generator.safetensors", "generator", {"w": torch.ones(4)}, metadata={"seconds": 2.0})
    (folder / "metrics.jsonl").write_text('{"stage": "diffusion", "step": 1, "loss": 0.5}\n')
    (tmp_path / "checkpoints.safetensors").write_text("the checkpoints")
    return folder


def repeated(run, monkeypatch, capsys, change=lambda folder: None) -> tuple[int, list[list[str]], str]:
    """Repeat a run with a copy in the place of its command; return the status, the commands and what was printed."""
    commands, out = [], run.parent / "again"

    def copy_run(command, *, env, check):
        commands.append([str(word) for word in command[1:]] + [env["OMP_NUM_THREADS"]])
        shutil.copytree(run, out / "run")
        change(out / "run")
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", copy_run)
    monkeypatch.setattr(repeat, "collect_provenance", lambda: {**PROVENANCE, "versions": {"torch": "2.14"}})
    monkeypatch.setattr(sys, "argv", ["repeat", str(run), "--out", str(out)])
    status = repeat.main()
    return status, commands, capsys.readouterr().out


def test_a_run_is_repeated_in_a_new_folder_with_its_own_checkpoints_and_threads(run, monkeypatch, capsys):
    status, commands, shown = repeated(run, monkeypatch, capsys)
    out = run.parent / "again"
    (words,) = commands
    assert words[0].endswith("train_p_diff.py")
    assert words[1:] == ["seed=3", f"output_dir={out}/run", f"task.param.path={out}/checkpoints.safetensors", "3"]
    assert (out / "checkpoints.safetensors").read_text() == "the checkpoints"
    assert status == 0 and "versions.torch: 2.11 then, 2.14 now" in shown
    assert "compared 5 files and 13 numbers: 0 differ" in shown


@pytest.mark.parametrize(
    "name, change",
    [
        ("metrics.json", lambda path: write_json(path, {"table": [{"source": "p_diff", "accuracy_mean": 0.6}]})),
        ("scores/p_diff.npz", lambda path: save_arrays(path, {"vectors": np.arange(6.0) + 1e-12})),
        ("generator.safetensors", lambda path: save_artifact(path, "generator", {"w": torch.zeros(4)}, metadata={})),
        ("metrics.jsonl", lambda path: path.write_text('{"stage": "diffusion", "step": 1, "loss": 0.51}\n')),
        ("scores/p_diff.npz", lambda path: path.unlink()),
    ],
)
def test_a_number_or_file_that_differs_is_named(run, monkeypatch, capsys, name, change):
    status, _, shown = repeated(run, monkeypatch, capsys, lambda folder: change(folder / name))
    assert status == 1 and name in shown and ": 1 differ" in shown
    assert ("DIFFERS" in shown) == (name == "metrics.json")


def test_times_and_lines_that_a_kill_cut_short_are_no_difference(run):
    other = run.parent / "other"
    shutil.copytree(run, other)
    write_json(other / "metrics.json", {"table": [{"source": "p_diff", "accuracy_mean": 0.5}], "seconds": {"score": 9}})
    save_arrays(other / "scores/p_diff.npz", {"vectors": np.arange(6.0), "seconds": np.array(9.5)})
    line = json.dumps({"stage": "diffusion", "step": 1, "loss": 0.5})
    (other / "metrics.jsonl").write_text(f'{{"stage": "diffusion", "step": 1, "loss": 0.7}}\n{line[:20]}\n{line}\n')
    (other / ".lock").touch()
    assert not compare_folders(run, other).differences


def test_a_swept_setting_gets_the_value_of_the_run():
    config = OmegaConf.create({"system": {"autoencoder": {"latent_noise": 0.2}}})
    words = ["-m", "system.autoencoder.latent_noise=0,0.2", "seed=1"]
    assert replace_places(words, config, {}) == ["system.autoencoder.latent_noise=0.2", "seed=1"]
    with pytest.raises(UserError, match=r"sweep over system/denoiser=mlp,conv"):
        replace_places(["system/denoiser=mlp,conv"], config, {})


def test_the_same_machine_is_said_to_be_the_same():
    assert compare_machines(PROVENANCE, PROVENANCE) == ["code, versions and machine are the same"]
    assert compare_machines(PROVENANCE, {**PROVENANCE, "threads": 1}) == ["threads: 3 then, 1 now"]


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(UserError, match=r"holds no provenance\.json"):
        read_commands(repeat.RunDirectory(tmp_path))
