"""Groups of exchangeable units from traced graphs: the function stays, unknown operations freeze, subsets cut."""

import copy
import logging

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from core.checkpoints.matching import match
from core.checkpoints.subset import flatten, resolve_subset, unflatten
from core.checkpoints.symmetry import UnitGroup
from tasks.networks.build import build_classifier
from tasks.networks.operations import RULES, combine
from tasks.networks.symmetry import find_groups, find_symmetry, measure_change, trace_groups
from tests.core.tiny import randomize

SIZES = {  # network -> sizes of its groups
    "convnet_mini": [8, 8, 4, 16],
    "mlp_mini": [64, 16],
    "resnet_mini": [8, 4, 4, 16],
    "cnn_medium": [16, 32, 15, 20],
    "vit_mini": 4 * [4, 8, 64],  # heads, the features of all heads, hidden units; the stream has fixed positions
    "convnext_mini": [16, 64, *3 * [32, 128, 128]],
    "test_resnet": None,  # with running statistics
}


def make_network(name, seed=0):
    torch.manual_seed(seed)
    return randomize(build_classifier(name, num_classes=10, channels=3, image_size=16))


def make_image(size=16):
    return torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", params=SIZES)
def traced(request):
    """Return a network with random values and its symmetry."""
    network = make_network(request.param)
    symmetry = find_symmetry(network, resolve_subset(network, "all"), make_image())
    return request.param, network, symmetry


def measure_logits(network, vector_D, subset):
    images = torch.randn(3, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return torch.func.functional_call(copy.deepcopy(network).double(), unflatten(vector_D, subset), images)


def draw(symmetry, seed=0):
    return symmetry.draw_permutations(torch.Generator().manual_seed(seed))


def test_the_groups_have_the_sizes_of_the_layers(traced):
    name, _, symmetry = traced
    sizes = [group.size for group in symmetry.groups]
    assert sizes == SIZES[name] or (name == "test_resnet" and len(sizes) > 5)
    acted_on = {axis.name for group in symmetry.groups for axis in group.axes}
    if name not in ("vit_mini", "test_resnet"):
        assert len(set(symmetry.subset.names) - acted_on) == 1, "only the bias of the last layer has fixed positions"


def test_a_permutation_of_all_groups_keeps_the_logits(traced):
    _, network, symmetry = traced
    vector_D = flatten(network, symmetry.subset).double()
    permuted_D = torch.from_numpy(symmetry.permute(vector_D.numpy(), draw(symmetry)))
    logits_BC, permuted_BC = (measure_logits(network, each, symmetry.subset) for each in (vector_D, permuted_D))
    assert (vector_D != permuted_D).double().mean() > 0.3
    torch.testing.assert_close(permuted_BC, logits_BC, rtol=1e-9, atol=1e-9)


def test_a_group_that_lacks_an_axis_changes_the_logits(traced):
    _, network, symmetry = traced
    twin = copy.deepcopy(network).double()
    for index, group in enumerate(symmetry.groups):
        broken = list(symmetry.groups)
        broken[index] = UnitGroup(group.size, group.axes[:-1])
        assert measure_change(twin, tuple(broken), make_image().double()) > 1e-6, group


def test_a_planted_permutation_is_found(traced):
    _, network, symmetry = traced
    vector_D = flatten(network, symmetry.subset).numpy()
    noisy_D = vector_D + 1e-3 * np.random.default_rng(0).standard_normal(len(vector_D))
    permuted_D = symmetry.permute(noisy_D, draw(symmetry))
    found_D = symmetry.permute(permuted_D, match(symmetry, permuted_D, vector_D))
    np.testing.assert_array_equal(found_D, noisy_D)


def test_running_statistics_are_permuted_with_their_channels():
    network = make_network("test_resnet")
    groups = find_groups(network, make_image())
    permuted = {axis.name for group in groups for axis in group.axes}
    assert any(name.endswith("running_mean") for name in permuted)
    assert all(name.replace("_mean", "_var") in permuted for name in permuted)


@pytest.mark.parametrize("subset, sizes", [
    ("last_norms", []),
    (["head.*"], [16]),
    (["stages.2.*", "head.*"], [4, 16]),
    (["stages.2.conv.*", "head.*"], [16]),  # its normalization is frozen
])  # fmt: skip
def test_only_groups_inside_the_subset_remain(subset, sizes):
    network = make_network("convnet_mini")
    symmetry = find_symmetry(network, resolve_subset(network, subset), make_image())
    assert [group.size for group in symmetry.groups] == sizes


def test_the_network_stays_as_it_is():
    network = make_network("test_resnet").train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert find_groups(network, make_image())
    assert network.training
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)


class Custom(nn.Module):
    """A linear layer with 12 units, some operation on them, and a linear layer with as many inputs as it returns."""

    def __init__(self, operation, width=12):
        super().__init__()
        self.before, self.operation, self.after = nn.Linear(48, 12), operation, nn.Linear(width, 3)

    def forward(self, images):
        return self.after(self.operation(self.before(images.flatten(1))))


def mutate(units):
    units = units.clone()
    units[:, :4].mul_(2)
    return units


def attend_by_hand(units):
    tokens = units.reshape(-1, 2, 6)
    scores = (tokens @ tokens.transpose(1, 2)).softmax(-1)
    return (scores @ tokens).flatten(1)


@pytest.mark.parametrize("operation, width, sizes", [
    (torch.relu, 12, [12]),
    (lambda units: units.softmax(-1) * torch.sigmoid(units) + units.mean(-1, keepdim=True), 12, [12]),
    (lambda units: torch.cumsum(units, 1), 12, []),
    (lambda units: torch.fft.fft(units).real, 12, []),
    (lambda units: units.flip(1), 12, []),
    (lambda units: units.sort(1)[0], 12, []),
    (mutate, 12, []),
    (lambda units: units[:, :6], 6, []),
    (lambda units: units[:, 1:2], 1, []),
    (lambda units: F.glu(units), 6, []),
    (lambda units: torch.mul(*units.chunk(2, dim=1)), 6, [6]),
    (lambda units: torch.mul(*units.unflatten(1, (2, 6)).unbind(1)), 6, [6]),
    (lambda units: units.reshape(-1, 3, 4).transpose(1, 2).flatten(1), 12, [3, 4]),
    (lambda units: units.reshape(-1, 3, 4).sum(1), 4, [3, 4]),
    (lambda units: (units.reshape(-1, 3, 4) + torch.arange(4.0)).flatten(1), 12, [3]),
    (lambda units: units.reshape(-1, 3, 4).reshape(-1, 2, 6).flatten(1), 12, []),
    (lambda units: torch.cat([units, units], 1), 24, []),
    (lambda units: torch.stack([units, -units], 1).flatten(1), 24, []),
    (lambda units: units.unsqueeze(1).expand(-1, 2, -1).flatten(1), 24, [2, 12]),
    (attend_by_hand, 12, [2, 6]),
    (lambda units: F.group_norm(units, 3), 12, [3, 4]),
    (lambda units: F.layer_norm(units, (12,)), 12, [12]),
    (lambda units: F.max_pool1d(units, 2), 6, []),
    (lambda units: units + torch.arange(12.0), 12, []),
    (lambda units: F.dropout(units, training=True), 12, []),
])  # fmt: skip
def test_operations_keep_split_or_freeze_the_units(operation, width, sizes):
    network = Custom(operation, width).double().eval()
    images = torch.randn(1, 3, 4, 4, dtype=torch.float64)
    groups = trace_groups(network, images)
    assert sorted(group.size for group in groups) == sorted(sizes)
    assert not groups or measure_change(network, groups, images) < 1e-12


class Layers(nn.Module):
    """Layers in a row, then the mean over all positions and a linear layer."""

    def __init__(self, *layers, width):
        super().__init__()
        self.layers, self.after = nn.Sequential(*layers), nn.Linear(width, 3)

    def forward(self, images):
        return self.after(self.layers(images).mean((2, 3)))


@pytest.mark.parametrize("layers, sizes", [
    ([nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, groups=8)], [8]),
    ([nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=2)], [2, 4, 4]),  # groups, channels before and after in each
    ([nn.Conv2d(3, 4, 1), nn.Conv2d(4, 8, 1, groups=4)], [4, 2]),
    ([nn.Conv2d(3, 8, 1), nn.GroupNorm(1, 8), nn.SiLU()], [8]),
    ([nn.Conv2d(3, 8, 1), nn.GroupNorm(2, 8), nn.AvgPool2d(2)], [2, 4]),
    ([nn.Conv2d(3, 8, 1), nn.ConvTranspose2d(8, 8, 1)], []),
    ([nn.Conv2d(3, 8, 1), nn.PixelShuffle(2), nn.Conv2d(2, 8, 1)], [8]),
    ([nn.Conv2d(3, 8, 1), nn.Softmax2d(), nn.BatchNorm2d(8, affine=False)], [8]),
])  # fmt: skip
def test_layers_keep_split_or_freeze_the_channels(layers, sizes):
    network = randomize(Layers(*layers, width=8)).double()
    images = torch.randn(1, 3, 6, 6, dtype=torch.float64)
    groups = trace_groups(network, images)
    assert sorted(group.size for group in groups) == sorted(sizes)
    assert not groups or measure_change(network, groups, images) < 1e-12


def test_a_wrong_rule_is_noticed(monkeypatch, caplog):
    monkeypatch.setitem(RULES, "cumsum", combine)
    network = Custom(lambda units: units.cumsum(1)).eval()
    assert [group.size for group in trace_groups(network, make_image(4))] == [12]
    assert find_groups(network, make_image(4)) == ()
    assert [record.levelno for record in caplog.records if record.name.startswith("tasks")] == [logging.WARNING]


def test_a_network_without_a_trace_has_no_groups(caplog):
    network = Custom(lambda units: units if units.sum() > 0 else -units)
    with caplog.at_level(logging.INFO, logger="tasks"):
        assert find_symmetry(network, resolve_subset(network, "all"), make_image(4)).groups == ()
    assert len([record for record in caplog.records if record.name.startswith("tasks")]) == 1


def test_a_tensor_with_two_names_is_frozen():
    network = Custom(nn.Linear(12, 12))
    assert [group.size for group in find_groups(network, make_image(4))] == [12, 12]
    network.alias = network.operation.weight
    assert find_groups(network, make_image(4)) == ()


class Twice(nn.Module):
    """A linear layer that is applied two times."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(12, 12)

    def forward(self, units):
        return self.layer(torch.relu(self.layer(units)))


def test_a_weight_that_is_used_twice_has_the_same_units_before_and_after():
    network = Custom(Twice())
    (group,) = find_groups(network, make_image(4))
    axes = [(axis.name, axis.axis) for axis in group.axes]
    assert group.size == 12 and {("operation.layer.weight", 0), ("operation.layer.weight", 1)} <= set(axes)
