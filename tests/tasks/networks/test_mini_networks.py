"""The mini networks: published numbers of parameters, other image sizes, and gradients."""

import pytest
import timm
import torch
from omegaconf import OmegaConf

from core.checkpoints.subset import get_floating_entries, resolve_subset
from core.runtime.errors import UserError
from core.runtime.provenance import ROOT
from tasks.networks.build import build_classifier

PUBLISHED = {  # number of parameters for ten classes, and the image size that it applies to
    "convnet_mini": (24_262, 64),
    "mlp_mini": (66_970, 64),
    "resnet_mini": (25_138, 64),
    "vit_mini": (80_714, 64),
    "convnext_mini": (74_970, 64),
    "cnn_medium": (10_853, 32),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_number_of_parameters_is_the_published_one(name):
    num_params, image_size = PUBLISHED[name]
    options = OmegaConf.to_container(OmegaConf.load(ROOT / f"configs/task/model/{name}.yaml"))
    model = build_classifier(**options, num_classes=10, channels=3, image_size=image_size)
    assert sum(parameter.numel() for parameter in model.parameters()) == num_params
    assert resolve_subset(model, "all").num_params == num_params, "running statistics would be generated as well"


@pytest.mark.parametrize("name", PUBLISHED)
def test_timm_creates_them_at_the_published_size(name):
    model = timm.create_model(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == PUBLISHED[name][0]


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("channels, image_size", [(1, 16), (1, 28), (3, 32), (3, 33), (3, 96)])
def test_other_images_and_numbers_of_classes_fit_and_every_parameter_learns(name, channels, image_size):
    torch.manual_seed(0)
    model = build_classifier(name, num_classes=7, channels=channels, image_size=image_size)
    logits_BC = model(torch.randn(4, channels, image_size, image_size))
    assert logits_BC.shape == (4, 7)
    logits_BC.square().sum().backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, parameter_name


@pytest.mark.parametrize("name, last", [
    ("convnet_mini", ["stages.1.norm", "stages.2.norm"]),
    ("mlp_mini", ["layers.1", "layers.4"]),
    ("resnet_mini", ["stages.1.norm", "stages.2.norm"]),
    ("vit_mini", ["blocks.3.norm2", "norm"]),
    ("convnext_mini", ["stages.3.blocks.1.norm", "head.norm"]),
])  # fmt: skip
def test_their_last_norms_are_found(name, last):
    subset = resolve_subset(build_classifier(name, num_classes=10, channels=1, image_size=16), "last_norms")
    assert list(subset.names) == [f"{layer}.{part}" for layer in last for part in ("weight", "bias")]


def test_without_normalization_there_are_no_last_norms():
    with pytest.raises(UserError, match=r"last_norms.*task\.param\.subset=all"):
        resolve_subset(build_classifier("cnn_medium", num_classes=10, channels=1, image_size=16), "last_norms")


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_state_dict_is_the_whole_network(name):
    first, second = (build_classifier(name, num_classes=10, channels=1, image_size=16).eval() for _ in range(2))
    second.load_state_dict(first.state_dict())
    images = torch.randn(2, 1, 16, 16)
    assert torch.equal(first(images), second(images))
    assert get_floating_entries(first).keys() == dict(first.named_parameters()).keys()


def test_options_reach_the_network_and_unknown_ones_are_refused():
    assert (
        build_classifier("convnext_mini", num_classes=10, channels=3, image_size=64, options={"dims": [8, 8, 8, 8]})
        .stem[0]
        .out_channels
        == 8
    )
    with pytest.raises(UserError, match="no_such_option"):
        build_classifier("vit_mini", num_classes=10, channels=3, image_size=64, options={"no_such_option": 1})


def test_there_are_no_pretrained_weights():
    with pytest.raises(UserError, match=r"vit_mini.*task\.model\.pretrained=false"):
        build_classifier("vit_mini", num_classes=10, channels=3, image_size=64, pretrained=True)


def test_all_positions_have_different_encodings():
    positions_Pc = timm.create_model("vit_mini").position_Pc
    assert positions_Pc.shape == (64, 64)
    assert torch.pdist(positions_Pc).min() > 0.1
