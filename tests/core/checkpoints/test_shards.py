"""Zoos in several files: vectors in shards, their content hashes, and vectors that are written one by one."""

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch.optim import SGD, AdamW

from core.checkpoints import checkpoint_set, shards, verified_files
from core.checkpoints.checkpoint_set import CheckpointSet
from core.checkpoints.optimizer_state import copy_optimizer_state
from core.checkpoints.shards import VectorFiles
from core.checkpoints.vector_rows import VectorRows
from core.runtime.artifacts import Artifact
from core.runtime.errors import UserError
from tests.core.tiny import make_checkpoints, make_network

ROW_BYTES = 60 * 4
SIZES = [5, 5, 2]  # rows per shard of the 12 checkpoints


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(shards, "SHARD_BYTES", 5 * ROW_BYTES)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "zoo.safetensors"


def shard(path: Path, number: int) -> Path:
    return path.with_name(f"zoo-vectors-{number:05d}.safetensors")


def make_files(folder: Path, k: int = 12, held_out: int = 3, width: int = 60) -> VectorFiles:
    """Return the files of a collection; files of another collection are replaced."""
    files = VectorFiles(folder, k, held_out, width)
    if not files.continued:
        files.create()
    return files


def flip_bit(path: Path) -> None:
    """Flip the lowest bit of the last float32 of a file, which changes it by a rounding error."""
    content = bytearray(path.read_bytes())
    content[-4] ^= 1
    path.write_bytes(content)


@pytest.fixture
def count_hashed(monkeypatch):
    """Count how often each method that reads all vectors runs."""
    counter = Counter()
    original = VectorRows.hash_anew
    monkeypatch.setattr(VectorRows, "hash_anew", lambda rows, check: counter.update("a") or original(rows, check))
    return counter


def test_a_large_zoo_lies_in_shards_and_a_small_one_in_one_file(path, tiny_checkpoints, monkeypatch):
    tiny_checkpoints.save(path)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    monkeypatch.setattr(shards, "SHARD_BYTES", 5 * ROW_BYTES)
    tiny_checkpoints.save(path)
    assert "vectors" not in load_file(path)
    for number, rows in enumerate(tiny_checkpoints.vectors_KD.split(5)):
        assert torch.equal(load_file(shard(path, number))["vectors"], rows)
    loaded = CheckpointSet.load(path)
    assert [len(rows) for rows in loaded.rows.shards] == SIZES
    assert torch.equal(loaded.vectors_KD, tiny_checkpoints.vectors_KD) and "vectors_KD" not in vars(loaded.first(7))
    assert torch.equal(loaded.first(7).vectors_KD, tiny_checkpoints.vectors_KD[:7])


def test_everything_besides_the_vectors_survives_the_disk(path, tiny_checkpoints):
    network = make_network()
    optimizer = AdamW(network.parameters(), lr=0.1)
    network.train()(torch.randn(5, 6)).sum().backward()
    optimizer.step()
    full = replace(
        tiny_checkpoints,
        origin_K2=torch.arange(24).view(12, 2),
        held_out_HD=torch.randn(5, 60),
        held_out_origin_H2=torch.arange(10).view(5, 2),
        optimizer_state=copy_optimizer_state(optimizer, network.named_parameters()),
    )
    full.save(path)
    loaded = CheckpointSet.load(path)
    for name in ("origin_K2", "held_out_HD", "held_out_origin_H2"):
        assert torch.equal(getattr(loaded, name), getattr(full, name)), name
    assert len(loaded.validation_HD) == 2 and len(loaded.audit_HD) == loaded.num_held_out - 2 == 3
    assert loaded.optimizer_state.keys() == {name for name, _ in network.named_parameters()}
    for name, parameter in network.named_parameters():
        state = loaded.optimizer_state[name]
        assert state.keys() == {"step", "exp_avg", "exp_avg_sq"} and state["step"] == 1
        assert torch.equal(state["exp_avg"], optimizer.state[parameter]["exp_avg"])
    assert tiny_checkpoints.optimizer_state is None and tiny_checkpoints.num_held_out == 0


def test_plain_sgd_has_no_state_to_store():
    network = make_network()
    network(torch.randn(5, 6)).sum().backward()
    for momentum, keys in ((0, []), (0.9, ["momentum_buffer"])):
        optimizer = SGD(network.parameters(), lr=0.1, momentum=momentum)
        optimizer.step()
        assert list(copy_optimizer_state(optimizer, network.named_parameters()).get("0.weight", {})) == keys


@pytest.mark.parametrize("field", ["origin_K2", "held_out_origin_H2"])
def test_origins_of_another_number_of_vectors_are_refused(tiny_checkpoints, field):
    with pytest.raises(UserError, match=r"origin has shape \(3, 2\)"):
        replace(tiny_checkpoints, held_out_HD=torch.randn(5, 60), **{field: torch.zeros(3, 2)})


@pytest.mark.usefixtures("small_shards")
class TestShards:
    def test_a_changed_bit_is_refused_by_the_name_of_its_file(self, path, tiny_checkpoints):
        tiny_checkpoints.save(path)
        CheckpointSet.load(path)
        flip_bit(shard(path, 1))
        for _ in range(2):  # a failed check is not remembered
            with pytest.raises(UserError, match=r"zoo-vectors-00001\.safetensors is damaged or belongs to another zoo"):
                CheckpointSet.load(path)

    def test_a_missing_shard_is_refused_with_its_place(self, path, tiny_checkpoints):
        tiny_checkpoints.save(path)
        shard(path, 2).unlink()
        with pytest.raises(
            UserError, match=r"zoo-vectors-00002\.safetensors not found.*zoo\.safetensors.*task_training"
        ):
            CheckpointSet.load(path)

    @pytest.mark.parametrize("k", [12, 11])
    def test_a_shard_of_another_zoo_is_refused(self, path, tiny_checkpoints, k):
        other = make_checkpoints(make_network()).first(k)
        other.save(path.with_name("other.safetensors"))
        tiny_checkpoints.save(path)
        path.with_name("other-vectors-00002.safetensors").replace(shard(path, 2))
        with pytest.raises(UserError, match=r"zoo-vectors-00002\.safetensors .*another"):
            CheckpointSet.load(path)

    def test_a_record_cannot_name_a_file_in_another_folder(self, path, tiny_checkpoints):
        tiny_checkpoints.save(path)
        record = [{"file": f"../{shard(path, n).name}", "rows": size, "sha256": ""} for n, size in enumerate(SIZES)]
        rows = shards.find_shards(record, path, num_params=60, advice="")
        assert [file.parent for file in rows.files] == [path.parent] * 3

    def test_the_fingerprint_needs_no_second_pass_and_knows_k_and_content(
        self, path, tiny_checkpoints, monkeypatch, count_hashed
    ):
        tiny_checkpoints.save(path)
        loaded = CheckpointSet.load(path)
        monkeypatch.setattr("core.checkpoints.vector_rows.hash_tensor", lambda *_: pytest.fail("hashed again"))
        found = {loaded.fingerprint, loaded.first(7).fingerprint, loaded.first(5).fingerprint}
        assert len(found) == 3 and loaded.first(7).fingerprint in found
        monkeypatch.undo()
        make_checkpoints(make_network()).save(path)
        assert CheckpointSet.load(path).fingerprint not in found

    def test_a_loaded_zoo_is_saved_elsewhere_without_changing_it(self, path, tiny_checkpoints):
        tiny_checkpoints.save(path)
        copy = path.with_name("copy.safetensors")
        loaded = CheckpointSet.load(path)
        loaded.save(copy)
        loaded.first(7).save(path.with_name("seven.safetensors"))
        for file in path.parent.glob("zoo*"):
            file.unlink()
        assert torch.equal(CheckpointSet.load(copy).vectors_KD, tiny_checkpoints.vectors_KD)
        assert CheckpointSet.load(copy).fingerprint == loaded.fingerprint
        seven = CheckpointSet.load(path.with_name("seven.safetensors"))
        assert torch.equal(seven.vectors_KD, tiny_checkpoints.vectors_KD[:7])

    @pytest.mark.parametrize("links", [True, False])
    def test_vectors_are_written_one_by_one_and_placed_without_a_copy(self, path, tiny_checkpoints, monkeypatch, links):
        if not links:
            monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError("no links here")))
        folder, vectors_KD = path.parent / "state", torch.randn(15, 60)
        files = make_files(folder)
        assert not files.continued
        for index in (14, 0, *range(1, 14)):
            files.write(index, vectors_KD[index])
        files.sync()
        rows = files.open_rows()
        collected = replace(tiny_checkpoints, rows=rows, held_out_HD=files.open_held_out())
        nodes = [file.stat().st_ino for file in rows.files]
        collected.save(path)
        assert ([shard(path, number).stat().st_ino for number in range(3)] == nodes) == links
        loaded = CheckpointSet.load(path)
        assert torch.equal(loaded.vectors_KD, vectors_KD[:12]) and torch.equal(loaded.held_out_HD, vectors_KD[12:])
        with safe_open(shard(path, 2), framework="pt") as file:
            assert file.get_slice("vectors").get_shape() == [2, 60]


def test_the_check_is_remembered_until_a_file_changes(path, tiny_checkpoints, count_hashed, monkeypatch):
    tiny_checkpoints.save(path)
    count_hashed.clear()
    for _ in range(3):
        CheckpointSet.load(path)
    assert count_hashed.total() == 1 and path.with_name(".zoo.safetensors.verified.json").is_file()
    os.utime(path, ns=(0, 0))
    CheckpointSet.load(path)
    assert count_hashed.total() == 2
    monkeypatch.setattr(verified_files, "write_json", lambda *_: (_ for _ in ()).throw(UserError("read-only")))
    os.utime(path, ns=(1, 1))
    for _ in range(2):
        CheckpointSet.load(path)
    assert count_hashed.total() == 4, "what cannot be remembered is checked each time"


def test_held_out_vectors_are_hashed_once_and_refused_if_they_were_changed(path, tiny_checkpoints, monkeypatch):
    replace(tiny_checkpoints, held_out_HD=torch.full((5, 60), 7.0)).save(path)
    hashed = []
    verify = Artifact.verify
    monkeypatch.setattr(Artifact, "verify", lambda self, name: hashed.append(name) or verify(self, name))
    for _ in range(2):
        CheckpointSet.load(path)
    assert hashed.count("held_out") == 1 and hashed.count("accuracy") == 2
    content = path.read_bytes()
    sevens = torch.full((5, 60), 7.0).numpy().tobytes()
    assert content.count(sevens) == 1
    path.write_bytes(content.replace(sevens, sevens[:-1] + b"\x41"))
    for _ in range(2):  # a failed check is not remembered
        with pytest.raises(UserError, match=r"zoo\.safetensors is damaged: tensor held_out "):
            CheckpointSet.load(path)


def test_a_changed_bit_of_the_only_file_is_refused(path, tiny_checkpoints):
    tiny_checkpoints.save(path)
    flip_bit(path)
    with pytest.raises(UserError, match=r"zoo\.safetensors is damaged"):
        CheckpointSet.load(path)


@pytest.mark.parametrize("k, held_out, width", [(12, 3, 60), (12, 4, 60), (11, 3, 60), (12, 3, 59)])
def test_only_files_of_the_same_collection_are_continued(tmp_path, k, held_out, width):
    make_files(tmp_path).write(2, torch.ones(60))
    again = make_files(tmp_path, k, held_out, width)
    assert again.continued == ((k, held_out, width) == (12, 3, 60))
    assert bool(again.open_rows().to_tensor()[2].any()) == again.continued


def test_files_that_are_missing_or_cut_are_made_again(tmp_path, small_shards):
    for damage in (Path.unlink, lambda file: os.truncate(file, 500)):
        make_files(tmp_path).write(0, torch.ones(60))
        damage(tmp_path / "vectors-00001.safetensors")
        assert not make_files(tmp_path).continued and make_files(tmp_path).continued


def test_files_that_are_made_again_leave_their_links_alone(tmp_path):
    make_files(tmp_path / "state").write(0, torch.ones(60))
    backup = tmp_path / "backup.safetensors"
    os.link(tmp_path / "state/vectors-00000.safetensors", backup)
    content = backup.read_bytes()
    make_files(tmp_path / "state", k=11)
    assert backup.read_bytes() == content


def test_too_little_space_is_refused_before_anything_is_collected(tmp_path):
    with pytest.raises(UserError, match=r"10000 vectors need 40000\.0 GB .*task\.param\.path"):
        make_files(tmp_path / "state", 10_000, 0, 1_000_000_000)
    assert not list((tmp_path / "state").iterdir())


def test_a_file_of_version_1_keeps_its_fingerprint_and_is_not_remembered(tmp_path):
    stored = Path(__file__).parent / "files/version_1.safetensors"
    path = tmp_path / "old.safetensors"
    path.write_bytes(stored.read_bytes())
    old = CheckpointSet.load(path)
    assert (len(old), old.rows.shape, old.version) == (12, (12, 60), 1)
    assert (old.fingerprint, old.first(5).fingerprint) == ("7965325b0ece0de2", "a21cb73c5184b61f")
    assert old.origin_K2 is None and old.held_out_HD is None and old.optimizer_state is None
    assert [file.name for file in tmp_path.iterdir()] == ["old.safetensors"]
    old.save(tmp_path / "new.safetensors")
    new = CheckpointSet.load(tmp_path / "new.safetensors")
    assert new.version == checkpoint_set.FORMAT_VERSION == 2 and torch.equal(new.vectors_KD, old.vectors_KD)
