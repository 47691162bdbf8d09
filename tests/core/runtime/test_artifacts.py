"""Artifacts are written completely or not at all, and errors name the file."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from core.runtime import artifacts
from core.runtime.artifacts import load_artifact, read_json, replace_atomically, save_artifact, write_json
from core.runtime.errors import UserError
from tests.core.tiny import damaged_copies


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "some.safetensors"
    save_artifact(path, "thing", {"numbers": torch.randn(50)}, metadata={"a": [1, 2.5, None]})
    return path


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_tensors_and_metadata_come_back_exactly(tmp_path):
    tensors = {
        "float": torch.randn(3, 4),
        "double": torch.randn(3, dtype=torch.float64),
        "bool": torch.tensor([True, False]),
        "scalar": torch.tensor(7),
        "transposed": torch.randn(3, 4).T,
        "parameter": torch.nn.Parameter(torch.randn(2)),
    }
    save_artifact(
        tmp_path / "new" / "folder" / "x.safetensors", "thing", tensors, metadata={"nested": {"list": [1, "ü"]}}
    )
    loaded, metadata = load_artifact(tmp_path / "new" / "folder" / "x.safetensors", "thing")
    assert metadata == {"nested": {"list": [1, "ü"]}} and loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        torch.testing.assert_close(loaded[name], tensor.detach(), rtol=0, atol=0)


@pytest.mark.parametrize("damage", ["empty", "cut inside the header", "half", "last byte missing", "other content"])
def test_a_damaged_file_is_named(saved, damage):
    saved.write_bytes(dict(damaged_copies(saved))[damage])
    with pytest.raises(UserError, match="damaged") as error:
        load_artifact(saved, "thing")
    assert str(saved) in str(error.value)


def test_a_missing_file_is_named_with_what_to_do(tmp_path):
    with pytest.raises(UserError, match=r"^thing file .*absent not found\. Run this first$") as error:
        load_artifact(tmp_path / "absent", "thing", hint="Run this first")
    assert str(tmp_path / "absent") in str(error.value)


def test_a_foreign_file_is_named(tmp_path, saved):
    save_file({"weight": torch.zeros(2)}, tmp_path / "plain.safetensors")
    with pytest.raises(UserError, match=r"plain\.safetensors is not a p-diff thing file"):
        load_artifact(tmp_path / "plain.safetensors", "thing")
    with pytest.raises(UserError, match=r"some\.safetensors .*\bother\b.*'thing'"):
        load_artifact(saved, "other")


def test_another_format_version_is_refused_with_both_numbers(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    monkeypatch.setattr(artifacts, "FORMAT_VERSION", 98)
    save_artifact(path, "thing", {"t": torch.zeros(1)}, metadata={})
    monkeypatch.setattr(artifacts, "FORMAT_VERSION", 99)
    with pytest.raises(UserError, match=r"version 98.* 99") as error:
        load_artifact(path, "thing")
    assert str(path) in str(error.value)


@pytest.mark.parametrize("metadata", [{}, {"metadata": "{not json"}])
def test_a_header_without_readable_metadata_is_damage(tmp_path, metadata):
    path = tmp_path / "x.safetensors"
    save_file(
        {"t": torch.zeros(1)}, path, {"kind": "thing", "format_version": str(artifacts.FORMAT_VERSION), **metadata}
    )
    with pytest.raises(UserError, match=r"x\.safetensors is damaged"):
        load_artifact(path, "thing")


@pytest.mark.parametrize("deep", ["x.json", "folder/x.json"])
def test_a_path_below_a_regular_file_is_named(tmp_path, deep):
    (tmp_path / "regular").write_text("in the way")
    path = tmp_path / "regular" / deep
    with pytest.raises(UserError, match="cannot write") as error:
        write_json(path, {})
    assert str(path) in str(error.value)
    with pytest.raises(UserError, match="regular"):
        save_artifact(path, "thing", {"t": torch.zeros(1)}, metadata={})
    assert (tmp_path / "regular").read_text() == "in the way"


def test_a_folder_at_the_path_is_named(tmp_path):
    (tmp_path / "x.json").mkdir()
    with pytest.raises(UserError, match=r"x\.json"):
        write_json(tmp_path / "x.json", {})
    assert files_in(tmp_path) == ["x.json"]


def test_a_full_disk_leaves_the_old_artifact_and_nothing_else(saved, full_disk):
    before = saved.read_bytes()
    with full_disk(), pytest.raises(UserError, match=r"some\.safetensors"):
        save_artifact(saved, "thing", {"numbers": torch.zeros(10**6)}, metadata={})
    assert saved.read_bytes() == before and files_in(saved.parent) == ["some.safetensors"]


def test_a_full_disk_leaves_the_old_json_and_nothing_else(tmp_path, full_disk):
    write_json(tmp_path / "x.json", {"old": 1})
    with full_disk(), pytest.raises(UserError, match=r"x\.json"):
        write_json(tmp_path / "x.json", ["long"] * 100_000)
    assert read_json(tmp_path / "x.json") == {"old": 1} and files_in(tmp_path) == ["x.json"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "x.txt"
    path.write_text("old")
    with pytest.raises(error), replace_atomically(path) as temporary:
        temporary.write_text("half of the ne")
        raise error
    assert path.read_text() == "old" and files_in(tmp_path) == ["x.txt"]


def test_the_new_file_appears_only_when_it_is_whole(tmp_path):
    path = tmp_path / "x.txt"
    with replace_atomically(path) as temporary:
        temporary.write_text("first half, ")
        assert not path.exists()
        with temporary.open("a") as file:
            file.write("second half")
    assert path.read_text() == "first half, second half" and files_in(tmp_path) == ["x.txt"]


def test_json_holds_no_nan(tmp_path):
    write_json(tmp_path / "x.json", {"value": 1.0})
    with pytest.raises(ValueError, match=r"nan|Out of range"):
        write_json(tmp_path / "x.json", {"value": float("nan")})
    assert json.loads((tmp_path / "x.json").read_text()) == {"value": 1.0} and files_in(tmp_path) == ["x.json"]


@pytest.mark.parametrize("content", ["", '{"cut": ', "\x00\x00"])
def test_damaged_json_is_named(tmp_path, content):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(UserError, match=r"cannot read .*x\.json"):
        read_json(tmp_path / "x.json")


def test_missing_json_is_named(tmp_path):
    with pytest.raises(UserError, match=r"absent\.json"):
        read_json(tmp_path / "absent.json")
