"""Folders of adapters: those that peft writes are read, and all others are refused with a reason."""

import json
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from core.runtime.errors import UserError
from tasks.importing.adapter_folders import read_adapter, read_common_adapters, sort_folders
from tasks.networks.adapters import LoraSpec, resolve_parameters
from tests.tasks.networks.test_adapters import VIT, build

TARGETS = ["attn.qkv", "mlp.fc1"]


def write(folder: Path, **settings) -> torch.nn.Module:
    """Write a random adapter with peft alone, and return the network that has it."""
    config = peft.LoraConfig(**{"r": 2, "lora_alpha": 6, "target_modules": TARGETS, **settings})
    model = peft.get_peft_model(build(lora=None), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_()
    model.save_pretrained(folder)
    return model.eval()


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "step1")
    return tmp_path / "step1"


def change_config(folder, **settings):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


@pytest.mark.parametrize("settings, alpha", [({}, 6), ({"use_rslora": True}, 6 * 2**0.5), ({"lora_dropout": 0.1}, 6)])
def test_an_adapter_of_peft_computes_the_same_here(tmp_path, settings, alpha):
    expected = write(tmp_path, **settings)
    spec = read_common_adapters([tmp_path])
    assert (spec.rank, spec.alpha) == (2, pytest.approx(alpha)) and len(spec.targets) == 4
    model, images = build({"rank": spec.rank, "alpha": spec.alpha, "targets": spec.targets}), torch.randn(2, 1, 16, 16)
    state = read_adapter(tmp_path)
    assert state.keys() == set(resolve_parameters(model, "lora").names)
    model.load_state_dict(state, strict=False)
    torch.testing.assert_close(model(images), expected(images))


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"peft_type": "IA3"}, "IA3"),
        ({"use_dora": True}, "use_dora=True"),
        ({"bias": "all"}, "bias=all"),
        ({"modules_to_save": ["head"]}, "modules_to_save"),
        ({"rank_pattern": {"qkv": 3}}, "rank_pattern"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights=pissa"),
        ({"use_a_later_method": True}, "use_a_later_method=True"),
        ({"lora_alpha": None}, "lora_alpha=None"),
        ({"r": 5}, "r=5"),
    ],
)
def test_an_adapter_that_is_more_than_one_product_is_refused(folder, settings, words):
    change_config(folder, **settings)
    with pytest.raises(UserError, match=words):
        read_common_adapters([folder])


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda folder: (folder / "adapter_config.json").unlink(), "adapter_config.json not found"),
        (lambda folder: (folder / "adapter_config.json").write_text("{"), "adapter_config.json is damaged"),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "adapter_model.safetensors not found"),
        (
            lambda folder: (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin"),
            "adapter_model.bin is a pickle.*safe_serialization=True",
        ),
        (
            lambda folder: save_file({"model.head.weight": torch.ones(2)}, folder / "adapter_model.safetensors"),
            r"head\.weight, which is neither",
        ),
    ],
)  # fmt: skip
def test_a_missing_or_unusable_file_is_named(folder, change, words):
    change(folder)
    with pytest.raises(UserError, match=words):
        read_common_adapters([folder])


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"r": 4}, "ranks are 2 and 4"),
        ({"lora_alpha": 7}, "alphas are 6 and 7"),
        ({"target_modules": ["attn.qkv"]}, r"blocks\.0\.mlp\.fc1 \(2 layers differ\)"),
    ],
)
def test_folders_with_different_adapters_are_refused(folder, tmp_path, settings, words):
    write(tmp_path / "other", **settings)
    with pytest.raises(UserError, match=f"step1 and .*other do not fit together: .*{words}"):
        read_common_adapters([folder, tmp_path / "other"])


def test_folders_are_sorted_by_number_and_at_least_two(folder, tmp_path):
    others = [tmp_path / name for name in ("step10", "step2")]
    for other in others:
        other.mkdir()
    assert [path.name for path in sort_folders([*others, folder])] == ["step1", "step2", "step10"]
    with pytest.raises(UserError, match="at least 2"):
        sort_folders([folder])
    with pytest.raises(UserError, match="step3: folder not found"):
        sort_folders([folder, tmp_path / "step3"])


def test_the_spec_names_every_layer(folder):
    layers = [f"blocks.{block}.{target}" for block in range(VIT["depth"]) for target in TARGETS]
    assert read_common_adapters([folder, folder]) == LoraSpec(2, 6.0, layers)
    assert len(load_file(folder / "adapter_model.safetensors")) == 2 * len(layers)
