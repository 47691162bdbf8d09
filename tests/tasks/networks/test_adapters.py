"""Adapters of peft in networks: what they change, which settings choose them, and how they are scored and merged."""

import sys

import pytest
import torch
from torch import nn

from core.checkpoints.low_rank import add_updates, remove_updates
from core.checkpoints.subset import flatten, unflatten
from core.runtime.errors import UserError
from tasks.networks.adapters import LoraSpec, can_adapt, choose_subset, resolve_parameters
from tasks.networks.build import ModelSpec, build_from_spec
from tasks.scoring.frozen_prefix import SplitNetwork, split_network
from tests.tasks.tiny import task_config, task_spec

FACTS = {"num_classes": 10, "channels": 1, "image_size": 16}
VIT = {"embed_dim": 16, "depth": 2, "num_heads": 2, "patch_size": 4}
LORA = {"rank": 2, "alpha": 3.0}


def build(lora=LORA, name="vit_tiny_patch16_224", options=VIT, seed=0):
    torch.manual_seed(seed)
    return build_from_spec(FACTS, ModelSpec.from_config({"name": name, "options": options, "lora": lora})).eval()


def randomize_adapters(model):
    """Give the adapters random values, and return their subset and the vector of these values."""
    subset = resolve_parameters(model, "lora")
    vector_D = torch.randn(subset.num_params, generator=torch.Generator().manual_seed(1))
    model.load_state_dict(unflatten(vector_D, subset), strict=False)
    return subset, vector_D


def test_new_adapters_change_nothing_and_are_not_trained_with_the_network():
    plain, adapted, images = build(lora=None), build(), torch.randn(3, 1, 16, 16)
    subset = resolve_parameters(adapted, "lora")
    # Per block: qkv (16 -> 48), proj (16 -> 16), fc1 (16 -> 64), fc2 (64 -> 16), each with rank 2.
    assert subset.num_params == 2 * 2 * (64 + 32 + 80 + 80) and len(subset.updates) == 8
    assert {update.scale for update in subset.updates} == {1.5}
    assert torch.equal(adapted(images), plain(images))
    frozen = {name for name, parameter in adapted.named_parameters() if not parameter.requires_grad}
    assert frozen == set(subset.names)


@pytest.mark.parametrize(
    "name, options, lora",
    [
        ("vit_tiny_patch16_224", VIT, LORA),
        ("vit_tiny_patch16_224", VIT, {"rank": 2, "targets": ["proj"]}),  # also the convolution of the patches
        ("test_resnet", {}, {"rank": 2, "targets": ["conv2", "fc"]}),
    ],
)
def test_a_plain_network_with_merged_weights_computes_the_same(name, options, lora):
    model, images = build(lora, name, options), torch.randn(3, 1, 16, 16)
    plain = build(None, name, options, seed=5)
    unchanged = model(images)
    subset, vector_D = randomize_adapters(model)
    network = remove_updates(model.state_dict(), subset.updates)
    plain.load_state_dict(network)
    torch.testing.assert_close(plain(images), unchanged, atol=1e-5, rtol=0)
    plain.load_state_dict(add_updates(network, unflatten(vector_D, subset), subset.updates))
    assert (model(images) - unchanged).abs().max() > 0.01
    torch.testing.assert_close(plain(images), model(images), atol=1e-5, rtol=1e-5)


def test_the_network_before_the_first_adapter_is_computed_once():
    model, images = build(), torch.randn(3, 1, 16, 16)
    subset, _ = randomize_adapters(model)
    network = split_network(model, subset.names, images)
    assert isinstance(network, SplitNetwork)
    vector_D = torch.randn(subset.num_params)
    expected = torch.func.functional_call(model, unflatten(vector_D, subset), (images,))
    torch.testing.assert_close(network.run(network.cache(images), unflatten(vector_D, subset)), expected)
    assert any("conv" in str(node.target) for node in network.prefix.graph.nodes)


@pytest.mark.parametrize("targets", [["attn.qvk"], ["norm1"], ["mlp.fc1", "blocks"]])
def test_a_target_that_cannot_have_an_adapter_is_refused_with_those_that_can(targets):
    with pytest.raises(UserError, match=rf"names {targets[-1]}, .*task\.model\.lora\.targets.*attn\.qkv"):
        build({"rank": 2, "targets": targets})


def test_a_layer_whose_weight_is_read_without_calling_it_is_refused():
    network = nn.ModuleDict({"attention": nn.MultiheadAttention(8, 2), "linear": nn.Linear(8, 8)})
    assert can_adapt(network["linear"]) and not can_adapt(network["attention"].out_proj)


def test_without_peft_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match="pip install peft"):
        build()


def test_a_rank_chooses_adapters_and_they_are_the_subset():
    assert (task_spec(task_config()).model.lora, task_spec(task_config()).param.subset) == (None, "last_norms")
    spec = task_spec(task_config("task.model.lora.rank=4", "task.model.lora.targets=[qkv]"))
    assert spec.param.subset == "lora" and spec.record()["task"]["model"]["lora"] == {
        "rank": 4, "alpha": 4, "targets": ["qkv"],
    }  # fmt: skip
    with pytest.raises(UserError, match=r"task\.param\.subset=all .*task\.model\.lora\.rank=4"):
        task_spec(task_config("task.model.lora.rank=4", "task.param.subset=all"))
    with pytest.raises(UserError, match=r"task\.model\.lora\.alpha=8 .*Set task\.model\.lora\.rank"):
        task_spec(task_config("task.model.lora.alpha=8"))
    with pytest.raises(UserError, match=r"task\.param\.subset=lora .*Set task\.model\.lora\.rank"):
        choose_subset("lora", None)
    assert LoraSpec.from_config({"rank": 2, "targets": "fc"}).targets == ["fc"]


def test_the_subset_of_a_network_is_flattened_in_its_order():
    model = build()
    subset, vector_D = randomize_adapters(model)
    assert torch.equal(flatten(model, subset), vector_D)
    assert subset.names[:2] == tuple(f"blocks.0.attn.qkv.lora_{part}.default.weight" for part in "AB")
