"""The builder of classifiers: stems, sizes, pretrained weights, and errors about networks that do not fit."""

import pytest
import timm
import torch
from omegaconf import OmegaConf
from torch import nn

from core.checkpoints.subset import resolve_subset
from core.runtime.errors import UserError
from core.runtime.provenance import ROOT
from tasks.networks.build import build_classifier, load_network


def test_small_images_get_a_small_stem():
    model = build_classifier("resnet18", num_classes=7, channels=1, image_size=16)
    assert model.conv1.kernel_size == (3, 3) and model.conv1.stride == (1, 1) and isinstance(model.maxpool, nn.Identity)
    assert model.conv1.in_channels == 1 and model(torch.randn(2, 1, 16, 16)).shape == (2, 7)


def test_large_images_keep_the_stem_and_the_choice_can_be_forced():
    assert build_classifier("resnet18", num_classes=10, channels=3, image_size=224).conv1.kernel_size == (7, 7)
    assert build_classifier(
        "resnet18", num_classes=10, channels=3, image_size=224, small_stem=True
    ).conv1.kernel_size == (3, 3)
    assert build_classifier(
        "resnet18", num_classes=10, channels=3, image_size=32, small_stem=False
    ).conv1.kernel_size == (7, 7)


PAPERS = [  # configuration, network of timm, the last two normalization layers, D
    ("resnet18", "resnet18", ["layer4.1.bn1", "layer4.1.bn2"], 2048),
    ("resnet50", "resnet50", ["layer4.2.bn2", "layer4.2.bn3"], 5120),
    ("vit_tiny", "vit_tiny_patch16_224", ["blocks.11.norm2", "norm"], 768),
    ("vit_base", "vit_base_patch16_224", ["blocks.11.norm2", "norm"], 3072),
    ("convnext_tiny", "convnext_tiny", ["stages.3.blocks.2.norm", "head.norm"], 3072),
    ("convnext_base", "convnext_base", ["stages.3.blocks.2.norm", "head.norm"], 4096),
]


@pytest.mark.parametrize("config, name, expected, num_params", PAPERS, ids=[paper[0] for paper in PAPERS])
def test_the_last_two_norms_are_the_published_ones(config, name, expected, num_params):
    options = OmegaConf.to_container(OmegaConf.load(ROOT / f"configs/task/model/{config}.yaml"))
    assert options["name"] == name
    subset = resolve_subset(
        build_classifier(**options, num_classes=100, channels=3, image_size=224), "last_norms", count=2
    )
    assert list(subset.names) == [f"{layer}.{part}" for layer in expected for part in ("weight", "bias")]
    assert subset.num_params == num_params


@pytest.mark.parametrize("image_size", [16, 28, 32])
@pytest.mark.parametrize("name, expected", [paper[1:3] for paper in PAPERS if "base" not in paper[0]])
def test_small_images_pass_and_the_subset_keeps_its_names(name, expected, image_size):
    model = build_classifier(name, num_classes=10, channels=1, image_size=image_size).eval()
    assert list(resolve_subset(model, "last_norms").names) == [
        f"{layer}.{part}" for layer in expected for part in ("weight", "bias")
    ]
    assert model(torch.zeros(2, 1, image_size, image_size)).shape == (2, 10)


@pytest.mark.parametrize(
    "image_size, patch, num_patches", [(16, 2, 64), (28, 4, 49), (32, 4, 64), (64, 8, 64), (96, 16, 36), (224, 16, 196)]
)
def test_patches_of_a_vit_follow_the_image_size(image_size, patch, num_patches):
    embedding = build_classifier("vit_tiny_patch16_224", num_classes=10, channels=3, image_size=image_size).patch_embed
    assert embedding.patch_size == (patch, patch) and embedding.num_patches == num_patches


@pytest.mark.parametrize("image_size, patch", [(16, 1), (32, 1), (33, 2), (64, 2), (65, 4)])
def test_the_stem_of_a_convnext_follows_the_image_size(image_size, patch):
    assert build_classifier("convnext_atto", num_classes=10, channels=3, image_size=image_size).stem[0].stride == (
        patch,
        patch,
    )


def test_options_override_the_ones_chosen_from_the_image_size():
    assert (
        build_classifier(
            "vit_tiny_patch16_224", num_classes=10, channels=3, image_size=32, options={"patch_size": 8}
        ).patch_embed.num_patches
        == 16
    )
    assert build_classifier(
        "vit_tiny_patch16_224", num_classes=10, channels=3, image_size=32, small_stem=False
    ).patch_embed.patch_size == (16, 16)
    assert build_classifier("convnext_atto", num_classes=10, channels=3, image_size=96, small_stem=True).stem[
        0
    ].stride == (2, 2)


@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "mixer_s16_224", "mobilenetv3_small_100"])
def test_other_networks_of_timm_take_small_images(name):
    assert build_classifier(name, num_classes=10, channels=1, image_size=28).eval()(
        torch.zeros(2, 1, 28, 28)
    ).shape == (2, 10)


def test_a_network_comes_in_training_mode_and_the_check_of_its_size_draws_nothing():
    torch.manual_seed(0)
    model = build_classifier("resnet18", num_classes=10, channels=3, image_size=32)
    drawn = torch.rand(1)
    torch.manual_seed(0)
    timm.create_model("resnet18", num_classes=10)
    nn.init.kaiming_normal_(nn.Conv2d(3, 64, 3, bias=False).weight, mode="fan_out", nonlinearity="relu")
    assert model.training and torch.equal(drawn, torch.rand(1))


@pytest.mark.parametrize("name", ["vgg11", "convnext_tiny"])
def test_images_that_a_network_cannot_take_are_refused(name):
    with pytest.raises(UserError, match=rf"task\.model\.name={name} cannot take images of 3×16×16 \(.*image_size"):
        build_classifier(name, num_classes=10, channels=3, image_size=16, small_stem=False)


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224"])
def test_pretrained_weights_that_cannot_be_downloaded_are_an_error(name, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=f"no pretrained weights for {name}.* set task.model.pretrained=false"):
        build_classifier(
            name, num_classes=10, channels=3, image_size=32, pretrained=True, options={"cache_dir": str(tmp_path)}
        )


def test_any_failure_to_download_pretrained_weights_is_a_user_error(monkeypatch):
    class ConnectError(Exception):
        """An error that is not an OSError, like the one of httpx."""

    def fail(*args, **kwargs):
        raise ConnectError("Name or service not known")

    monkeypatch.setattr("timm.create_model", fail)
    with pytest.raises(UserError, match=r"pretrained=true.*resnet18.*Name or service not known"):
        build_classifier("resnet18", num_classes=10, channels=3, image_size=32, pretrained=True)


def test_pretrained_weights_keep_the_stem_that_they_were_trained_with(monkeypatch):
    given = {}
    original = timm.create_model

    def create(name, *, pretrained, **options):
        given[name] = options
        return original(name, **options)

    monkeypatch.setattr("timm.create_model", create)
    assert build_classifier(
        "resnet18", num_classes=10, channels=3, image_size=32, pretrained=True
    ).conv1.kernel_size == (7, 7)
    build_classifier("vit_tiny_patch16_224", num_classes=10, channels=3, image_size=32, pretrained=True)
    assert given["vit_tiny_patch16_224"] == {"num_classes": 10, "in_chans": 3, "img_size": 32}
    assert build_classifier(
        "resnet18", num_classes=10, channels=3, image_size=32, pretrained=True, small_stem=True
    ).conv1.kernel_size == (3, 3)


def test_unknown_names_are_refused_with_similar_names():
    with pytest.raises(UserError, match=r"task\.model\.name=resnet81 .*resnet18"):
        build_classifier("resnet81", num_classes=10, channels=3, image_size=32)


def test_unknown_options_are_refused():
    with pytest.raises(UserError, match=r"task\.model\.options=\{'no_such_option': 1\} .*resnet18"):
        build_classifier("resnet18", num_classes=10, channels=3, image_size=32, options={"no_such_option": 1})


def test_a_state_dict_of_another_shape_is_refused_with_the_entry():
    model = build_classifier("test_resnet", num_classes=100, channels=3, image_size=32)
    state = build_classifier("test_resnet", num_classes=10, channels=3, image_size=32).state_dict()
    expected = (
        r"a\.pth does not fit the network: fc\.bias is \(10,\) in the file and \(100,\).*\(2 entries.*task\.model"
    )
    with pytest.raises(UserError, match=expected):
        load_network(model, state, "a.pth")


def test_a_state_dict_with_missing_or_unexpected_entries_is_refused_with_an_entry():
    model = build_classifier("test_resnet", num_classes=10, channels=3, image_size=32)
    state = model.state_dict()
    with pytest.raises(UserError, match=r"a\.pth.*extra is \(2,\) in the file and absent.*\(1 entries"):
        load_network(model, {**state, "extra": torch.zeros(2)}, "a.pth")
    del state["fc.bias"]
    with pytest.raises(UserError, match=r"a\.pth.*fc\.bias is absent in the file and \(10,\).*\(1 entries"):
        load_network(model, state, "a.pth")


def test_a_loaded_network_is_in_eval_mode():
    model = build_classifier("test_resnet", num_classes=10, channels=3, image_size=32)
    assert not load_network(
        build_classifier("test_resnet", num_classes=10, channels=3, image_size=32), model.state_dict(), "x"
    ).training
