"""Tests that files of earlier versions are still read, give the same numbers, and match their settings."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from core.checkpoints.checkpoint_set import CheckpointSet
from core.evaluation.scores import ScoreTable
from core.runtime.artifacts import read_json
from tests.pipeline.conftest import assert_names

FORMAT_1 = Path(__file__).parents[1] / "fixtures/format_1"
NETWORK = ["task.model.name=test_resnet", "+task.model.options.channels=[4,4,8,8]"]
CHECKPOINTS = ["task.param.path=checkpoints.safetensors", "task.param.k=2", "logger=none"]
RUN = [
    "output_dir=run", "system.autoencoder_steps=2", "system.diffusion_steps=2", "system.autoencoder.channels=[4,4]",
    "system.autoencoder.latent_dim=8", "system.denoiser.hidden_dim=16", "system.denoiser.num_blocks=1",
    "generation.num_models=2", "generation.num_exported=0", "evaluation.num_baselines=2", "evaluation.noise=[0.15]",
    "evaluation.num_train_images=20", "evaluation.num_trajectories=1", "evaluation.soup_candidates=2",
    "system.sampler.num_steps=2", "evaluation.num_finetuned=1", "evaluation.finetune_steps=2",
]  # fmt: skip


@pytest.fixture
def place(empty):
    """Make a folder with a copy of the old files, as if the user had updated the code since."""
    shutil.copytree(FORMAT_1, empty.path, dirs_exist_ok=True)
    return empty


@pytest.fixture
def earlier_splits(monkeypatch):
    """Validate on 100 digits and test on 797, as the versions that wrote the old files did."""
    monkeypatch.setattr("tasks.data.digits.divide_held_out", lambda held_out, *_: (held_out[:0], held_out))


@pytest.mark.parametrize(
    "file, num_params, fingerprint, accuracy, total",
    [
        ("checkpoints.safetensors", 32, "d10972e8bd4670e3", [0.13333333333333333] * 2, 14.7906),
        ("independent/checkpoints.safetensors", 6966, "183632a7d3501145", [0.1, 0.15333333333333332], 5237.1318),
        ("imported/checkpoints.safetensors", 32, "e27902614e1c7342", [0.1, 0.1], 16.0291),
    ],
)
def test_checkpoints_are_read(file, num_params, fingerprint, accuracy, total):
    checkpoints = CheckpointSet.load(FORMAT_1 / file)
    assert (len(checkpoints), checkpoints.subset.num_params) == (2, num_params)
    assert checkpoints.fingerprint == fingerprint and checkpoints.accuracy_K.tolist() == pytest.approx(accuracy)
    assert checkpoints.vectors_KD.double().sum().item() == pytest.approx(total, abs=1e-3)
    assert torch.isfinite(checkpoints.vectors_KD).all()


def test_scores_are_read():
    table = ScoreTable.load(FORMAT_1 / "run/scores/p_diff.npz")
    rows = {row["source"]: row for row in read_json(FORMAT_1 / "run/metrics.json")["table"]}
    assert table.vectors_MD.shape == (2, 32) and table.scores["test"].wrong_MN.shape == (2, 2391)
    assert np.mean(table.scores["test"].accuracy_M) == pytest.approx(rows["p_diff"]["accuracy_mean"], abs=1e-12)


@pytest.mark.parametrize(
    "words",
    [
        [*NETWORK, *CHECKPOINTS],
        [
            "task.collect=independent",
            "task.collect.runs=2",
            "task.param.subset=all",
            "task.model=convnet_mini",
            "task.model.name=convnet_mini",
            *CHECKPOINTS,
            "task.param.path=independent/checkpoints.safetensors",
        ],
    ],
    ids=["steps", "independent"],
)
@pytest.mark.usefixtures("earlier_splits")
def test_collecting_reuses_an_old_file_and_does_not_touch_it(place, words):
    before = {path: path.read_bytes() for path in place.path.rglob("*") if path.is_file()}
    assert place.run("task_training.py", *words).error == 0
    assert {path: path.read_bytes() for path in place.path.rglob("*") if path.is_file()} == before
    assert_names(place.refuse("task_training.py", *words, "task.epochs=2"), "task.epochs", 1, 2)


def test_checkpoints_that_were_validated_on_fewer_digits_are_refused(place):
    before = (place.path / "checkpoints.safetensors").read_bytes()
    for script, words in (("task_training.py", []), ("train_p_diff.py", [*RUN, "mode=test"])):
        assert_names(place.refuse(script, *NETWORK, *CHECKPOINTS, *words), "task.param.path=FILE", 100, 300, 797, 597)
    assert (place.path / "checkpoints.safetensors").read_bytes() == before


@pytest.mark.usefixtures("earlier_splits")
def test_mode_test_over_an_old_run_gives_the_same_numbers(place):
    before = place.metrics("run")
    assert place.run("train_p_diff.py", *NETWORK, *CHECKPOINTS, *RUN, "mode=test").error == 0
    after = place.metrics("run")
    assert after.keys() >= before.keys()
    assert (place.path / "run/generator.safetensors").read_bytes() == (
        FORMAT_1 / "run/generator.safetensors"
    ).read_bytes()
    found = {row["source"]: row for row in after["table"]}
    for row in before["table"][:-1]:  # the last row trained with a fresh optimizer, and now has another name
        for name in ("n", "accuracy_mean", "accuracy_best"):
            assert found[row["source"]][name] == pytest.approx(row[name], abs=0.002), (row["source"], name)


@pytest.mark.usefixtures("earlier_splits")
def test_imported_checkpoints_are_modeled(place):
    words = ["task.param.path=imported/checkpoints.safetensors", "task.param.k=2", "task.data.dataset=digits"]
    few = [word for word in RUN if not word.startswith("output_dir")]
    tiny = ["trainer=cpu", "logger=none", "output_dir=over_imported"]
    assert place.run("train_p_diff.py", *words, *few, *tiny, tiny=False).error == 0
    config = (place.path / "over_imported/config.yaml").read_text()
    assert "name: test_resnet" in config and "layer4.0.bn2.*" in config
    assert [row["n"] for row in place.metrics("over_imported")["table"]][:3] == [2, 1, 2]
    folder = place.path / "over_imported/scores"
    before = {path.stem: path.read_bytes() for path in folder.iterdir()}
    words.append("task.collect.optimizer.lr=0.5")
    assert place.run("train_p_diff.py", *words, *few, *tiny, tiny=False).error == 0
    # The file of imported checkpoints does not hold the learning rate, which only fine-tuning uses.
    assert {path.stem for path in folder.iterdir() if path.read_bytes() != before[path.stem]} == {"finetuned_2"}
