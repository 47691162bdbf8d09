"""Low-rank updates: merged weights, names without adapters, and their place in files."""

import json
from dataclasses import replace

import pytest
import torch

from core.checkpoints.checkpoint_set import CheckpointSet
from core.checkpoints.low_rank import LowRankUpdate, add_updates, remove_updates
from core.checkpoints.subset import ParameterSubset

UPDATE = LowRankUpdate("0.fc.weight", "0.fc.base_layer.weight", "0.fc.A.weight", "0.fc.B.weight", scale=0.5)


@pytest.mark.parametrize("a_shape, b_shape, shape", [
    ((2, 3), (4, 2), (4, 3)), ((2, 3, 3, 3), (4, 2, 1, 1), (4, 3, 3, 3)),
])  # fmt: skip
def test_the_product_is_added_to_its_weight_alone(a_shape, b_shape, shape):
    a, b, weight = torch.randn(a_shape), torch.randn(b_shape), torch.randn(shape)
    network = {"0.fc.weight": weight, "0.fc.bias": torch.ones(4)}
    merged = add_updates(network, {UPDATE.a: a, UPDATE.b: b}, [UPDATE])
    expected = weight + 0.5 * torch.einsum("or,r...->o...", b.reshape(4, 2), a)
    torch.testing.assert_close(merged["0.fc.weight"], expected)
    assert merged["0.fc.bias"] is network["0.fc.bias"] and network["0.fc.weight"] is weight


def test_a_network_without_adapters_has_its_plain_names():
    names = ["0.fc.base_layer.weight", "0.fc.base_layer.bias", "0.fc.A.weight", "0.fc.B.weight", "0.norm.weight", "cls"]
    network = {name: torch.full((), number) for number, name in enumerate(names)}
    plain = {name: int(tensor) for name, tensor in remove_updates(network, [UPDATE]).items()}
    assert plain == {"0.fc.weight": 0, "0.fc.bias": 1, "0.norm.weight": 4, "cls": 5}
    assert remove_updates(network, ()) == network


@pytest.fixture
def checkpoints(tiny_checkpoints):
    """Take the weight of the first norm as A, and both parameters of the second as B."""
    update = LowRankUpdate("0.weight", "0.base_layer.weight", "1.weight", "4.weight", scale=2.0)
    return replace(tiny_checkpoints, subset=replace(tiny_checkpoints.subset, updates=(update,)))


def test_a_file_keeps_the_updates(checkpoints, tmp_path):
    checkpoints.save(tmp_path / "checkpoints.safetensors")
    assert CheckpointSet.load(tmp_path / "checkpoints.safetensors").subset == checkpoints.subset
    stored = json.loads(json.dumps(checkpoints.subset.to_metadata()))
    assert ParameterSubset.from_metadata(stored) == checkpoints.subset


def test_the_scale_is_part_of_the_fingerprint(checkpoints):
    (update,) = checkpoints.subset.updates
    other = replace(checkpoints, subset=replace(checkpoints.subset, updates=(replace(update, scale=1.0),)))
    assert len({each.fingerprint for each in (checkpoints, other)}) == 2
