"""Errors of reading npz files, with their wording."""

import re

import numpy as np
import pytest

from core.evaluation.arrays import open_arrays
from core.runtime.errors import UserError


def read(path):
    with open_arrays(path, content="scores", advice="Run again") as file:
        return file["values"]


def test_arrays_are_read(tmp_path):
    np.savez(tmp_path / "some.npz", values=np.arange(3))
    np.testing.assert_array_equal(read(tmp_path / "some.npz"), np.arange(3))


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
