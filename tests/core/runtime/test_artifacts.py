"""Artifacts are written completely or not at all, and errors name the file."""

import hashlib
import json
import os
import re
import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from core.runtime import artifacts, content_hash
from core.runtime.artifacts import (
    link_or_copy,
    load_artifact,
    open_artifact,
    read_json,
    replace_atomically,
    save_artifact,
    write_json,
)
from core.runtime.content_hash import hash_tensor
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


def test_another_format_version_is_refused_with_the_known_numbers(tmp_path):
    path = tmp_path / "x.safetensors"
    save_artifact(path, "thing", {"t": torch.zeros(1)}, metadata={}, version=98)
    with pytest.raises(UserError, match=r"x\.safetensors has format version 98.* reads 1\."):
        load_artifact(path, "thing")
    with pytest.raises(UserError, match=r"reads 1 or 99\."):
        open_artifact(path, "thing", versions=(1, 99))
    assert open_artifact(path, "thing", versions=(97, 98)).version == 98


LAYOUT_TENSORS = {
    "matrix": torch.arange(12, dtype=torch.float32).reshape(3, 4),
    "flag": torch.tensor([True]),
    "number": torch.tensor(7),
    "half": torch.ones(2, dtype=torch.bfloat16),
    "empty": torch.zeros(0, 3),
}


def flipped(content: bytes, position: int, bit: int = 0) -> bytes:
    changed = bytearray(content)
    changed[position] ^= 1 << bit
    return bytes(changed)


def test_every_flipped_bit_of_a_safetensors_file_is_noticed(tmp_path):
    """Change one bit of each byte in turn: header length, names, shapes, metadata, hashes, and all tensors."""
    path = tmp_path / "x.safetensors"
    save_artifact(path, "thing", LAYOUT_TENSORS, metadata={"seed": 3})
    whole = path.read_bytes()
    for position in range(len(whole)):
        path.write_bytes(flipped(whole, position, bit=position % 7))
        with pytest.raises(UserError, match=r"x\.safetensors"):
            load_artifact(path, "thing")
    path.write_bytes(whole)
    assert load_artifact(path, "thing")[1] == {"seed": 3}


@pytest.mark.parametrize("name", ["matrix", "flag", "number", "half"])
def test_a_changed_tensor_is_named_with_what_to_do(tmp_path, name):
    path = tmp_path / "x.safetensors"
    save_artifact(path, "thing", LAYOUT_TENSORS, metadata={})
    whole = path.read_bytes()
    header = int.from_bytes(whole[:8], "little")
    start = json.loads(whole[8 : 8 + header])[name]["data_offsets"][0]
    path.write_bytes(flipped(whole, 8 + header + start))
    expected = f"{path} is damaged: tensor {name} does not have the content that was written. Restore the file, "
    with pytest.raises(UserError, match=f"^{re.escape(expected)}or delete it and create it again$"):
        load_artifact(path, "thing")
    artifact = open_artifact(path, "thing", unverified=[name])
    with pytest.raises(UserError, match=f"tensor {name} "):
        artifact.verify(name)


def test_a_tensor_is_hashed_in_one_pass_with_another_check(monkeypatch):
    matrix, blocks = LAYOUT_TENSORS["matrix"], []
    whole = hash_tensor(matrix)
    monkeypatch.setattr(content_hash, "BLOCK_BYTES", 40)  # two rows of four float32 numbers
    assert hash_tensor(matrix, blocks.append) == whole
    assert [len(rows_B4) for rows_B4 in blocks] == [2, 1]
    torch.testing.assert_close(torch.cat(blocks), matrix, rtol=0, atol=0)


@pytest.mark.parametrize("links", [True, False])
def test_a_link_or_copy_replaces_its_target_and_no_file_that_is_linked_to_it(tmp_path, monkeypatch, links):
    source, target, backup = (tmp_path / name for name in ("source", "target", "backup"))
    source.write_text("new")
    target.write_text("old")
    os.link(target, backup)
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError("no links here")))
    link_or_copy(source, target)
    assert (target.read_text(), backup.read_text()) == ("new", "old") and target.samefile(source) == links


def test_a_hash_depends_on_type_and_shape_and_not_on_blocks_or_strides(monkeypatch):
    matrix = LAYOUT_TENSORS["matrix"]
    whole = hash_tensor(matrix)
    assert len({whole, hash_tensor(matrix.flatten()), hash_tensor(matrix.view(torch.int32)), hash_tensor(-matrix)}) == 4
    monkeypatch.setattr(content_hash, "BLOCK_BYTES", 1)
    assert hash_tensor(matrix) == hash_tensor(matrix.T.contiguous().T) == whole


def test_a_file_without_hashes_is_read(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"t": torch.ones(2)}, path, {"kind": "thing", "format_version": "1", "metadata": '{"seed": 3}'})
    tensors, metadata = load_artifact(path, "thing")
    assert tensors["t"].tolist() == [1, 1] and metadata == {"seed": 3}
    assert open_artifact(path, "thing").hashes == {}


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


def test_the_content_reaches_the_disk_before_the_rename_and_the_folder_after_it(tmp_path, monkeypatch):
    path, calls, fsync, replace = tmp_path / "x.txt", [], os.fsync, os.replace

    def record_fsync(descriptor):
        synced = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        calls.append(("fsync", "folder" if synced == tmp_path else synced.read_text()))
        fsync(descriptor)

    def record_replace(old, new):
        calls.append(("replace", new))
        replace(old, new)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", record_replace)
    with replace_atomically(path) as temporary:
        temporary.write_text("new")
    assert calls == [("fsync", "new"), ("replace", path), ("fsync", "folder")]


def test_a_file_that_cannot_reach_the_disk_is_not_renamed(tmp_path, monkeypatch):
    (tmp_path / "x.txt").write_text("old")

    def fail(descriptor):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with (
        pytest.raises(UserError, match=r"cannot write .*x\.txt \(Input/output error\)"),
        replace_atomically(tmp_path / "x.txt") as temporary,
    ):
        temporary.write_text("new")
    assert (tmp_path / "x.txt").read_text() == "old" and files_in(tmp_path) == ["x.txt"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "x.txt"
    path.write_text("old")
    with pytest.raises(error), replace_atomically(path) as temporary:
        temporary.write_text("half of the ne")
        raise error
    assert path.read_text() == "old" and files_in(tmp_path) == ["x.txt"]


def test_what_a_killed_process_left_of_a_file_is_deleted_when_the_file_is_written_again(tmp_path):
    host, dead, alive = socket.gethostname(), 2**22 + 1, os.getppid()  # no process has a number above 2²²
    others = [f".x.txt.{host}.{alive}.tmp", f".x.txt.elsewhere.{dead}.tmp", f".y.txt.{host}.{dead}.tmp", "x.txt.tmp"]
    for name in [f".x.txt.{host}.{dead}.tmp", *others]:
        (tmp_path / name).write_text("half")
    with replace_atomically(tmp_path / "x.txt") as temporary:
        temporary.write_text("whole")
    assert files_in(tmp_path) == sorted([*others, "x.txt"])


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
    assert read_json(tmp_path / "x.json") == {"value": 1.0} and files_in(tmp_path) == ["x.json"]


def test_json_ends_with_the_hash_of_its_other_entries(tmp_path):
    path, content = tmp_path / "x.json", {"b": [1, 2.5, None], "a": {10: "ü", 9: True}, "sha256 of b": "0"}
    write_json(path, content)
    stored = json.loads(path.read_text())
    plain = {"b": [1, 2.5, None], "a": {"10": "ü", "9": True}, "sha256 of b": "0"}
    assert list(stored) == ["b", "a", "sha256 of b", "sha256"] and read_json(path) == plain
    canonical = json.dumps(plain, sort_keys=True)
    assert stored["sha256"] == hashlib.sha256(canonical.encode()).hexdigest()
    write_json(path, read_json(path))
    assert json.loads(path.read_text()) == stored


def test_every_flipped_bit_of_a_json_file_is_noticed(tmp_path):
    path, content = tmp_path / "x.json", {"seed": 10, "rows": [0.5, None], "name": "a"}
    write_json(path, content)
    whole = path.read_bytes()
    for position in range(len(whole) - 1):  # the last byte is a line break
        path.write_bytes(flipped(whole, position, bit=position % 7))
        with pytest.raises(UserError, match=r"x\.json"):
            read_json(path)


def test_changed_json_is_refused_with_what_to_do(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"accuracy": 0.5})
    path.write_text(path.read_text().replace("0.5", "0.9"))
    reason = "its content was changed after it was written; if that was on purpose, remove its entry sha256"
    expected = f"cannot read {path} ({reason}). Restore or delete the file, then run the command again"
    with pytest.raises(UserError, match=f"^{re.escape(expected)}$"):
        read_json(path)


def test_artifacts_have_the_mode_of_ordinary_files(tmp_path):
    (tmp_path / "ordinary").write_text("")
    save_artifact(tmp_path / "x.safetensors", "checkpoints", {"vectors": torch.ones(2)}, metadata={})
    assert (tmp_path / "x.safetensors").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


@pytest.mark.parametrize("content", [{}, {"a": 1}, {"a": float("nan")}, [1, 2], "text", 3])
def test_json_without_a_hash_is_read(tmp_path, content):
    (tmp_path / "x.json").write_text(json.dumps(content))
    assert repr(read_json(tmp_path / "x.json")) == repr(content)


@pytest.mark.parametrize("content", [{}, [1, 2], "text", None])
def test_any_content_survives_the_disk(tmp_path, content):
    write_json(tmp_path / "x.json", content)
    assert read_json(tmp_path / "x.json") == content


@pytest.mark.parametrize("content", ["", '{"cut": ', "\x00\x00"])
def test_damaged_json_is_named(tmp_path, content):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(UserError, match=r"cannot read .*x\.json"):
        read_json(tmp_path / "x.json")


def test_missing_json_is_named(tmp_path):
    with pytest.raises(UserError, match=r"absent\.json"):
        read_json(tmp_path / "absent.json")
