"""The folder of a run: resumed, moved aside or refused, so that two runs never mix."""

import json
import shutil
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from core.runtime.artifacts import read_json
from core.runtime.errors import UserError
from core.runtime.run_directory import RunDirectory

CONFIG = OmegaConf.create({"seed": 0, "name": "run_${seed}"})
SETTINGS = {"seed": 0, "system": {"ema_decay": 0.9}}
OTHER = {"seed": 0, "system": {"ema_decay": 0.5}}


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def run(tmp_path):
    """Return a finished run with SETTINGS and a file in every subfolder."""
    run = RunDirectory(tmp_path / "outputs" / "run")
    run.begin(CONFIG, SETTINGS, "train")
    for path in (
        run.generator,
        run.metrics,
        run.scores("p_diff"),
        run.report / "table.md",
        run.training_state / "diffusion.ckpt",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(path.name)
    return run


def test_the_same_settings_go_on_with_the_run(run):
    before = content(run.path)
    RunDirectory(run.path).begin(CONFIG, SETTINGS, "train")
    after = content(run.path)
    assert {**after, "provenance.json": b""} == {**before, "provenance.json": b""}
    assert [path.name for path in run.path.parent.iterdir()] == ["run"]


def test_training_with_other_settings_moves_the_earlier_run_aside_whole(run):
    before = content(run.path)
    RunDirectory(run.path).begin(CONFIG, OTHER, "train")
    assert content(run.path.with_name("run.1")) == before
    assert sorted(content(run.path)) == ["config.yaml", "provenance.json", "settings.json"]

    RunDirectory(run.path).begin(CONFIG, SETTINGS, "train")
    assert content(run.path.with_name("run.1")) == before
    assert read_json(run.path.with_name("run.2") / "settings.json") == OTHER


def test_a_run_whose_training_state_was_deleted_still_knows_its_settings(run):
    shutil.rmtree(run.training_state)  # users delete it to save space
    RunDirectory(run.path).begin(CONFIG, SETTINGS, "train")
    assert run.generator.exists()
    RunDirectory(run.path).begin(CONFIG, OTHER, "train")
    assert not run.generator.exists() and (run.path.with_name("run.1") / "generator.safetensors").exists()


@pytest.mark.parametrize("mode", ["test", "generate"])
def test_other_modes_refuse_other_settings_and_touch_nothing(run, mode):
    before = content(run.path)
    with pytest.raises(UserError, match=r"system\.ema_decay=0\.9 .*0\.5") as error:
        RunDirectory(run.path).begin(CONFIG, OTHER, mode)
    assert str(run.path) in str(error.value)
    assert content(run.path) == before and [path.name for path in run.path.parent.iterdir()] == ["run"]


def test_the_configuration_is_kept_resolved(run):
    assert OmegaConf.load(run.path / "config.yaml") == {"seed": 0, "name": "run_0"}


def test_each_mode_keeps_its_own_command(run, monkeypatch):
    monkeypatch.setattr("sys.argv", ["/somewhere/train_p_diff.py", "mode=test"])
    run.begin(CONFIG, SETTINGS, "test")
    commands = read_json(run.path / "provenance.json")
    assert set(commands) == {"train", "test"}
    assert commands["test"]["command"] == ["train_p_diff.py", "mode=test"] != commands["train"]["command"]


def test_testing_keeps_the_configuration_of_the_training(run):
    run.begin(OmegaConf.create({"seed": 1}), SETTINGS, "test")
    assert OmegaConf.load(run.path / "config.yaml").seed == 0


@pytest.mark.parametrize("name", ["settings.json", "provenance.json"])
@pytest.mark.parametrize("damage", [lambda text: "{", lambda text: text.replace("e", "d", 1)], ids=["cut", "changed"])
def test_a_damaged_file_is_named(run, name, damage):
    (run.path / name).write_text(damage((run.path / name).read_text()))
    with pytest.raises(UserError, match=name):
        run.begin(CONFIG, SETTINGS, "train")


def test_a_run_of_an_earlier_version_without_hashes_goes_on(run):
    (run.path / "settings.json").write_text(json.dumps(SETTINGS))
    (run.path / "provenance.json").write_text("{}")
    run.begin(CONFIG, SETTINGS, "test")
    assert list(read_json(run.path / "provenance.json")) == ["test"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "regular").write_text("in the way")
    with pytest.raises(UserError) as error:
        RunDirectory(tmp_path / "regular" / "run").begin(CONFIG, SETTINGS, "train")
    assert str(tmp_path / "regular" / "run") in str(error.value)


def test_a_source_with_a_dot_in_its_name_keeps_it(run):
    assert run.scores("noised_0.05").name == "noised_0.05.npz"


def test_shared_scores_lie_beside_the_checkpoints_under_their_identity(tmp_path):
    path = RunDirectory.shared_scores(tmp_path / "digits" / "checkpoints.safetensors", "0123", "noised_0.05")
    assert path == tmp_path / "digits" / "scores" / "0123" / "noised_0.05.npz"


def test_the_files_of_a_run_are_named_once(run):
    assert {run.config.name, run.provenance.name} <= {path.name for path in run.path.iterdir()}


def test_a_file_in_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "run").write_text("not a folder")
    with pytest.raises(UserError, match=r"output_dir=.*run is a file"):
        RunDirectory(tmp_path / "run").begin({}, {}, "train")
