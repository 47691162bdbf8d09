"""Npz files: their hashes, and the errors of reading them with their wording."""

import io
import json
import re
import zipfile

import numpy as np
import pytest

from core.runtime.arrays import open_arrays, save_arrays
from core.runtime.errors import UserError
from tests.core.tiny import damaged_copies


def read(path):
    with open_arrays(path, content="scores", advice="Run again") as file:
        return file["values"]


ARRAYS = {
    "values": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "names": np.array(["a", "bü"]),
    "mask": np.array([True, False]),
    "seconds": np.array(1.5),
    "empty": np.zeros((0, 3)),
}


@pytest.fixture
def saved(tmp_path):
    save_arrays(tmp_path / "some.npz", ARRAYS)
    return tmp_path / "some.npz"


def read_all(path):
    with open_arrays(path, content="scores", advice="Run again") as file:
        return dict(file)


def assert_equal(arrays, expected):
    assert arrays.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(arrays[name], array)
        assert arrays[name].dtype == array.dtype


def test_arrays_survive_the_disk_without_their_hashes(saved):
    assert_equal(read_all(saved), ARRAYS)


def test_a_file_without_hashes_is_read(tmp_path):
    np.savez(tmp_path / "some.npz", **ARRAYS)
    assert_equal(read_all(tmp_path / "some.npz"), ARRAYS)


def test_no_flipped_bit_changes_an_array_unnoticed(tmp_path):
    """Change one bit of each byte in turn: arrays, their headers, hashes, and the table of contents."""
    path, arrays = tmp_path / "some.npz", {"values": np.arange(3, dtype=np.float32), "name": np.array("ü")}
    save_arrays(path, arrays)
    whole, refused = path.read_bytes(), 0
    for position in range(len(whole)):
        changed = bytearray(whole)
        changed[position] ^= 1 << position % 8
        path.write_bytes(bytes(changed))
        try:
            assert_equal(read_all(path), arrays)  # for example after a change of the time in an archive
        except UserError as error:
            refused += 1
            assert str(path) in str(error)
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        assert refused > sum(entry.file_size for entry in archive.infolist())


@pytest.mark.parametrize("start, bit", [(8, 0), (10, 1)], ids=["encrypted", "unknown compression"])
def test_an_archive_that_looks_encrypted_or_compressed_is_damage(saved, start, bit):
    """Change a field of the first entry of the table of contents of the archive."""
    changed = bytearray(saved.read_bytes())
    changed[changed.index(b"PK\x01\x02") + start] ^= 1 << bit
    saved.write_bytes(bytes(changed))
    with pytest.raises(UserError, match=re.escape(str(saved))):
        read(saved)


def test_a_table_of_contents_that_hides_arrays_is_damage(saved):
    changed = bytearray(saved.read_bytes())
    changed[changed.index(b"PK\x01\x02") + 33] ^= 1  # the first entry gets a comment of 256 bytes
    saved.write_bytes(bytes(changed))
    with pytest.raises(UserError, match=re.escape(str(saved))):
        read(saved)


@pytest.mark.parametrize(
    "name, changed",
    [
        ("values", ARRAYS["values"] + np.float32(1e-6)),
        ("values", ARRAYS["values"].T),
        ("values", ARRAYS["values"].view(np.int32)),
        ("names", np.array(["a", "b"])),
        ("seconds", np.array(2.5)),
        ("empty", np.zeros((0, 4))),
        ("added", np.zeros(1)),
        ("mask", None),
    ],
)
def test_a_changed_array_is_named_although_the_archive_is_valid(saved, name, changed):
    with np.load(saved, allow_pickle=False) as file:
        arrays = {**file, name: changed}
    np.savez(saved, **{key: array for key, array in arrays.items() if array is not None})
    expected = f"cannot read the scores in {saved} (array {name} does not have the content that was written). Run again"
    with pytest.raises(UserError, match=f"^{re.escape(expected)}$"):
        read(saved)


@pytest.mark.parametrize("hashes", ["", "[]", "3", json.dumps({name: None for name in ARRAYS})])
def test_unreadable_hashes_are_damage(saved, hashes):
    np.savez(saved, **ARRAYS, sha256=np.array(hashes))
    with pytest.raises(UserError, match=re.escape(str(saved))):
        read(saved)


@pytest.mark.parametrize("damage", ["empty", "cut inside the header", "half", "last byte missing", "other content"])
def test_a_truncated_file_is_named(saved, damage):
    saved.write_bytes(dict(damaged_copies(saved))[damage])
    with pytest.raises(UserError, match=re.escape(str(saved))):
        read(saved)


def test_a_full_disk_keeps_the_old_file(saved, full_disk):
    before = saved.read_bytes()
    with full_disk(), pytest.raises(UserError, match=r"some\.npz"):
        save_arrays(saved, {"values": np.zeros(100_000)})
    assert saved.read_bytes() == before and list(saved.parent.iterdir()) == [saved]


def test_a_missing_file_is_named_with_advice(tmp_path):
    path = tmp_path / "some.npz"
    expected = f"cannot read the scores because {path} does not exist. Run again"
    with pytest.raises(UserError, match=f"^{re.escape(expected)}$"):
        read(path)


@pytest.mark.parametrize(
    "write",
    [
        lambda file: file.write(b"no archive"),
        lambda file: np.savez(file, other=np.arange(3)),
        lambda file: np.save(file, np.arange(3)),
        lambda file: np.savez(file, values=np.array([None])),
    ],
    ids=["damaged", "another array", "one plain array", "a pickle"],
)
def test_an_unreadable_file_is_named_with_the_reason_and_advice(tmp_path, write):
    path = tmp_path / "some.npz"
    with path.open("wb") as file:
        write(file)
    with pytest.raises(UserError, match=rf"^cannot read the scores in {re.escape(str(path))} \(.+\)\. Run again$"):
        read(path)
