"""The one builder of classifiers."""

import pytest
import torch
from torch import nn

from core.checkpoints.subset import resolve_subset
from core.runtime.errors import UserError
from tasks.models import build_classifier, load_network


def test_small_images_get_a_small_stem():
    model = build_classifier("resnet18", num_classes=7, channels=1, image_size=16)
    assert model.conv1.kernel_size == (3, 3) and model.conv1.stride == (1, 1) and isinstance(model.maxpool, nn.Identity)
    assert model.conv1.in_channels == 1 and model(torch.randn(2, 1, 16, 16)).shape == (2, 7)


def test_large_images_keep_the_stem_and_the_choice_can_be_forced():
    assert build_classifier("resnet18", 10, 3, image_size=224).conv1.kernel_size == (7, 7)
    assert build_classifier("resnet18", 10, 3, image_size=224, small_stem=True).conv1.kernel_size == (3, 3)
    assert build_classifier("resnet18", 10, 3, image_size=32, small_stem=False).conv1.kernel_size == (7, 7)


@pytest.mark.parametrize(
    "name, expected, num_params",
    [
        ("resnet18", ["layer4.1.bn1", "layer4.1.bn2"], 2048),
        ("resnet50", ["layer4.2.bn2", "layer4.2.bn3"], 5120),
        ("vit_tiny_patch16_224", ["blocks.11.norm2", "norm"], 768),
        ("convnext_tiny", ["stages.3.blocks.2.norm", "head.norm"], 3072),
    ],
)
def test_the_last_two_norms_are_the_papers(name, expected, num_params):
    subset = resolve_subset(build_classifier(name, 100, 3, image_size=224), "last_norms", count=2)
    assert list(subset.names) == [f"{layer}.{part}" for layer in expected for part in ("weight", "bias")]
    assert subset.num_params == num_params


def test_unknown_names_are_refused_with_near_ones():
    with pytest.raises(UserError, match="'resnet81'.*resnet18"):
        build_classifier("resnet81", 10, 3, 32)


def test_unknown_options_are_refused():
    with pytest.raises(UserError, match="no_such_option"):
        build_classifier("resnet18", 10, 3, 32, options={"no_such_option": 1})


def test_a_network_of_another_shape_is_refused_by_name():
    state = build_classifier("resnet18", 10, 3, 32).state_dict()
    with pytest.raises(UserError, match=r"some file.*fc\.bias is \(10,\) in the file and \(100,\)"):
        load_network(build_classifier("resnet18", 100, 3, 32), state, "some file")


def test_a_loaded_network_is_in_eval_mode():
    model = build_classifier("test_resnet", 10, 3, 32)
    assert not load_network(build_classifier("test_resnet", 10, 3, 32), model.state_dict(), "x").training
