"""The parameter subset: selection, order, and copies out of a network and back."""

import json

import pytest
import timm
import torch
from torch import nn

from core.checkpoints.subset import (
    ParameterSubset,
    find_normalization_layers,
    flatten,
    get_floating_entries,
    resolve_subset,
    unflatten,
)
from core.runtime.errors import UserError

PAPER = {  # the last two normalization layers and D, as in the paper
    "resnet18": (["layer4.1.bn1", "layer4.1.bn2"], 2048),
    "resnet50": (["layer4.2.bn2", "layer4.2.bn3"], 5120),
    "vit_tiny_patch16_224": (["blocks.11.norm2", "norm"], 768),
    "vit_base_patch16_224": (["blocks.11.norm2", "norm"], 3072),
    "convnext_tiny": (["stages.3.blocks.2.norm", "head.norm"], 3072),
    "convnext_base": (["stages.3.blocks.2.norm", "head.norm"], 4096),
}


@pytest.fixture
def norms():
    """Return a network with four normalization layers that have parameters and two that have none."""
    return nn.Sequential(
        nn.BatchNorm1d(3),
        nn.LayerNorm(3, elementwise_affine=False),
        nn.GroupNorm(1, 3),
        nn.BatchNorm2d(3, affine=False),
        nn.LayerNorm(3),
        nn.RMSNorm(3),
        nn.Linear(3, 2),
    )


@pytest.mark.parametrize("name", PAPER)
def test_last_norms_are_those_of_the_paper(name):
    layers, num_params = PAPER[name]
    with torch.device("meta"):
        subset = resolve_subset(timm.create_model(name), "last_norms", count=2)
    assert list(subset.names) == [f"{layer}.{part}" for layer in layers for part in ("weight", "bias")]
    assert subset.num_params == num_params


def test_only_normalizations_with_parameters_count(norms):
    assert find_normalization_layers(norms) == ["0", "2", "4", "5"]


def test_a_norm_without_bias_gives_its_weight_alone(norms):
    assert resolve_subset(norms, "last_norms", count=2).names == ("4.weight", "4.bias", "5.weight")


@pytest.mark.parametrize("count", [0, -1, 5])
def test_a_count_that_the_network_does_not_have_is_refused_with_both_numbers(norms, count):
    with pytest.raises(UserError, match=rf"task\.param\.count={count} .*1 to 4"):
        resolve_subset(norms, "last_norms", count=count)


def test_all_takes_running_statistics_but_no_counters(tiny_network):
    names = resolve_subset(tiny_network, "all").names
    assert "1.running_mean" in names and "1.running_var" in names and "1.num_batches_tracked" not in names
    assert {name for name, _ in tiny_network.named_parameters()} < set(names)


def test_globs_match_names_and_may_overlap(tiny_network):
    assert resolve_subset(tiny_network, ["1.*", "1.weight", "5.b*"]).names == (
        "1.weight",
        "1.bias",
        "1.running_mean",
        "1.running_var",
        "5.bias",
    )


def test_the_order_is_the_networks_whatever_the_order_asked_for(tiny_network):
    asked = ["5.bias", "0.weight", "4.weight"]
    assert ParameterSubset.from_model(tiny_network, asked).names == ("0.weight", "4.weight", "5.bias")
    assert resolve_subset(tiny_network, asked) == ParameterSubset.from_model(tiny_network, asked[::-1])


def test_a_glob_that_matches_nothing_is_named_even_beside_one_that_does(tiny_network):
    with pytest.raises(UserError, match=r"'bn\*'"):
        resolve_subset(tiny_network, ["1.*", "bn*"])


def test_an_unknown_name_comes_with_near_ones(tiny_network):
    with pytest.raises(UserError, match=r"'1\.wieght'.*1\.weight"):
        ParameterSubset.from_model(tiny_network, ["1.wieght"])


@pytest.mark.parametrize("subset, words", [([], "empty"), ("last_norm", "'last_norm'.*last_norms, all or a list")])
def test_nothing_and_a_mistyped_choice_are_refused(tiny_network, subset, words):
    with pytest.raises(UserError, match=words):
        resolve_subset(tiny_network, subset)


def test_flatten_and_unflatten_invert_each_other(tiny_network):
    subset = resolve_subset(tiny_network, "all")
    parts = unflatten(flatten(tiny_network, subset), subset)
    entries = get_floating_entries(tiny_network)
    assert list(parts) == list(subset.names)
    for name, part in parts.items():
        torch.testing.assert_close(part, entries[name].detach(), rtol=0, atol=0)


@pytest.mark.parametrize("names", [["1.weight"], ["1.weight", "1.bias", "1.running_mean"]])
def test_a_snapshot_does_not_follow_the_live_network(tiny_network, names):
    subset = ParameterSubset.from_model(tiny_network, names)
    snapshot = flatten(tiny_network, subset)
    before = snapshot.clone()
    with torch.no_grad():
        for tensor in get_floating_entries(tiny_network).values():
            tensor.add_(1)
    assert torch.equal(snapshot, before)
    assert torch.equal(flatten(tiny_network, subset), before + 1)


def test_a_snapshot_is_a_plain_float32_vector_on_the_cpu(tiny_network):
    vector_D = flatten(tiny_network.double(), resolve_subset(tiny_network, "last_norms"))
    assert (vector_D.dtype, vector_D.shape, vector_D.requires_grad, vector_D.device.type) == (
        torch.float32,
        (60,),
        False,
        "cpu",
    )


def test_a_vector_put_in_place_acts_as_the_network_that_it_came_from(tiny_network):
    subset = resolve_subset(tiny_network, "last_norms")
    vector_D, images = torch.randn(subset.num_params), torch.randn(5, 6)
    before = flatten(tiny_network, subset)
    replaced = torch.func.functional_call(tiny_network, unflatten(vector_D, subset), (images,))
    assert torch.equal(flatten(tiny_network, subset), before)
    tiny_network.load_state_dict(unflatten(vector_D, subset), strict=False)
    torch.testing.assert_close(replaced, tiny_network(images), rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(59,), (61,), (1, 60)])
def test_a_vector_of_another_size_is_refused_with_both(tiny_network, shape):
    with pytest.raises(UserError, match=rf"\({shape[0]},.* 60 numbers"):
        unflatten(torch.zeros(shape), resolve_subset(tiny_network, "last_norms"))


def test_every_coordinate_has_the_name_of_its_tensor(tiny_network):
    subset = ParameterSubset.from_model(tiny_network, ["1.weight", "4.weight", "5.bias"])
    assert subset.sizes == [14, 16, 3]
    assert [subset.find_name(index) for index in (0, 13, 14, 29, 30, 32)] == ["1.weight"] * 2 + ["4.weight"] * 2 + [
        "5.bias"
    ] * 2
    with pytest.raises(IndexError):
        subset.find_name(33)


def test_a_subset_survives_json(tiny_network):
    subset = resolve_subset(tiny_network, "all")
    assert ParameterSubset.from_metadata(json.loads(json.dumps(subset.to_metadata()))) == subset
