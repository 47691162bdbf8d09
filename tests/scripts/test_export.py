"""The script that writes the full state dicts of chosen models."""

import sys

import pytest
import torch
from safetensors.torch import load_file

from core.checkpoints.subset import ParameterSubset
from core.command_line.run_command import run_command
from core.publishing.export import write_folder
from core.publishing.generated_models import GeneratedModels
from scripts import export
from tests.pipeline.conftest import assert_names, assert_one_line


@pytest.fixture
def models():
    torch.manual_seed(0)
    return GeneratedModels(
        vectors_MD=torch.randn(30, 6),
        subset=ParameterSubset(("norm.weight", "scale"), ((5,), ())),
        network={
            "conv": torch.randn(3, 2),
            "norm.weight": torch.ones(5),
            "scale": torch.ones(()),
            "n": torch.tensor(4),
        },
        seed=42,
        generator="0123456789abcdef",
    )


@pytest.fixture
def run(tmp_path, models):
    """Make the folder of a run that holds nothing but its generated models."""
    write_folder(models, tmp_path / "run/generated", num_exported=1)
    return tmp_path / "run"


@pytest.fixture
def call(monkeypatch):
    def call(*words):
        monkeypatch.setattr(sys, "argv", ["export", *map(str, words)])
        with pytest.raises(SystemExit) as exited:
            run_command(export.main)
        return exited.value.code

    return call


def assert_holds(path, models, number):
    state = load_file(path)
    expected = {**models.network, "norm.weight": models.vectors_MD[number, :5], "scale": models.vectors_MD[number, 5]}
    assert state.keys() == expected.keys() and all(torch.equal(state[name], expected[name]) for name in expected)


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_chosen_models_are_written_beside_the_two_files(run, models, call, capsys):
    before = names_in(run / "generated")
    assert call(run, "--model", 17, 29, 17) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"wrote {run}/generated/0{number}.safetensors" for number in (17, 29)
    ]
    assert names_in(run / "generated") == sorted([*before, "017.safetensors", "029.safetensors"])
    for number in (17, 29):
        assert_holds(run / f"generated/0{number}.safetensors", models, number)


def test_the_folder_of_the_models_and_another_output_folder_may_be_given(run, models, call, tmp_path):
    assert call(run / "generated", "--model", 3, "--out", tmp_path / "chosen/here") == 0
    assert names_in(tmp_path / "chosen/here") == ["003.safetensors"]
    assert_holds(tmp_path / "chosen/here/003.safetensors", models, 3)


def test_equal_files_are_left_alone_and_other_files_are_refused_before_anything_is_written(run, call, capsys):
    folder = run / "generated"
    before = (folder / "000.safetensors").stat().st_mtime_ns
    assert call(run, "--model", 0) == 0 and "already there" in capsys.readouterr().out
    assert (folder / "000.safetensors").stat().st_mtime_ns == before
    (folder / "005.safetensors").write_bytes((folder / "000.safetensors").read_bytes())
    error = assert_one_line(call(run, "--model", 4, 5))
    assert_names(error, "005.safetensors", 5, 42, "--out")
    assert not (folder / "004.safetensors").exists()


@pytest.mark.parametrize("number", [30, -1])
def test_a_number_that_does_not_exist_is_refused_with_the_count(run, call, number):
    assert_names(assert_one_line(call(run, "--model", 3, number)), f"--model {number}", 30, "0 to 29")
    assert names_in(run / "generated") == ["000.safetensors", "network.safetensors", "vectors.safetensors"]


def test_a_folder_without_generated_models_names_the_command_to_run(run, call, tmp_path):
    assert_names(assert_one_line(call(tmp_path / "nowhere", "--model", 0)), tmp_path / "nowhere", "output_dir")
    for name in ("network.safetensors", "vectors.safetensors"):  # what is left is the folder of an earlier version
        (run / "generated" / name).unlink()
    for folder in (run, run / "generated"):
        assert_names(assert_one_line(call(folder, "--model", 0)), "mode=generate", f"output_dir={run}")


def test_a_missing_file_is_named(run, call):
    (run / "generated/network.safetensors").unlink()
    assert_names(assert_one_line(call(run, "--model", 0)), "network.safetensors", "mode=generate")


def test_a_missing_number_is_a_usage_error(run, call):
    assert call(run) == 2
