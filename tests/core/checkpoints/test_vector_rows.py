"""Vectors in several shards read like one tensor."""

import pytest
import torch
from torch import Tensor

from core.checkpoints.vector_rows import VectorRows
from core.runtime.errors import UserError


@pytest.fixture
def vectors_KD() -> Tensor:
    """Seven vectors of three numbers."""
    return torch.arange(21.0).reshape(7, 3)


@pytest.fixture(params=[(7,), (3, 4), (1, 5, 1)], ids=str)
def rows(request: pytest.FixtureRequest, vectors_KD: Tensor) -> VectorRows:
    """Return the same vectors in one, two and three shards."""
    return VectorRows(vectors_KD.split(request.param))


def test_shape_counts_the_rows_of_all_shards(rows: VectorRows) -> None:
    assert (len(rows), rows.shape) == (7, (7, 3))


def test_take_returns_any_rows_in_the_asked_order(rows: VectorRows, vectors_KD: Tensor) -> None:
    wanted_B = torch.tensor([6, 0, 3, 3, 2])
    assert rows.take(wanted_B).equal(vectors_KD[wanted_B])


def test_columns_and_all_rows_equal_those_of_one_tensor(rows: VectorRows, vectors_KD: Tensor) -> None:
    assert rows.columns(slice(1, 3)).equal(vectors_KD[:, 1:3])
    assert rows.to_tensor().equal(vectors_KD)


def test_batches_cover_all_rows_in_order(rows: VectorRows, vectors_KD: Tensor) -> None:
    batches = list(rows.split(2))
    assert max(map(len, batches)) <= 2
    assert torch.cat(batches).equal(vectors_KD)


@pytest.mark.parametrize("k", range(1, 8))
def test_first_keeps_the_first_rows(rows: VectorRows, vectors_KD: Tensor, k: int) -> None:
    assert rows.first(k).to_tensor().equal(vectors_KD[:k])


def test_one_shard_is_not_copied(vectors_KD: Tensor) -> None:
    assert VectorRows([vectors_KD]).to_tensor() is vectors_KD


@pytest.mark.parametrize("shapes", [[], [(2, 3), (2, 4)], [(3,)]], ids=str)
def test_shards_that_do_not_fit_together_are_refused(shapes: list[tuple[int, ...]]) -> None:
    with pytest.raises(UserError, match="expected matrices of equal width"):
        VectorRows([torch.zeros(shape) for shape in shapes])
