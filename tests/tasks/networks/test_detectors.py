"""Detectors: the same numbers as torchvision's, still statistics, losses in any mode, and errors of one sentence."""

import pytest
import torch
from torchvision.models import ResNet50_Weights
from torchvision.models.detection import FCOS, FasterRCNN
from torchvision.models.detection._utils import overwrite_eps
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from core.checkpoints.subset import find_normalization_layers, flatten, resolve_subset, unflatten
from core.runtime.errors import UserError
from tasks.networks import detectors
from tasks.networks.build import ModelSpec, build_from_spec
from tasks.networks.detectors import StillBatchNorm2d, build_detector
from tasks.networks.recipes import rebuild

SIZES = {"min_size": 64, "max_size": 107}
FACTS = {"num_classes": 11, "channels": 3, "image_size": 64}
EMPTY = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
TARGETS = [{"boxes": torch.tensor([[10.0, 10, 30, 34], [40, 5, 60, 30]]), "labels": torch.tensor([3, 1])}, EMPTY]


def make_images(*sizes):
    torch.manual_seed(1)
    return [torch.rand(3, *size) for size in sizes]


IMAGES = make_images((64, 64), (64, 80))


@pytest.fixture
def small():
    torch.manual_seed(0)
    return build_detector("fcos_small", num_classes=11, image_size=64)


def make_published(name):
    """Return a detector that torchvision has made, with frozen statistics that are not trivial."""
    torch.manual_seed(0)
    if name == "fasterrcnn_resnet50_fpn":
        backbone = resnet_fpn_backbone(backbone_name="resnet50", weights=None)
        model = FasterRCNN(backbone, 91, **SIZES)
        overwrite_eps(model, 0.0)  # as torchvision does with its published weights
    else:
        pyramid = {"returned_layers": [2, 3, 4], "extra_blocks": LastLevelP6P7(256, 256)}
        model = FCOS(resnet_fpn_backbone(backbone_name="resnet50", weights=None, **pyramid), 91, **SIZES)
    for key, tensor in model.state_dict().items():
        if key.endswith("running_var"):
            tensor.uniform_(0.5, 2).mul_(1e-3 if ".layer4.2.bn3" in key else 1)
        elif key.endswith("running_mean"):
            tensor.normal_(0, 0.1)
    return model


@pytest.mark.parametrize("name", ["fasterrcnn_resnet50_fpn", "fcos_resnet50_fpn"])
def test_a_pretrained_detector_computes_the_same_as_that_of_torchvision(monkeypatch, name):
    published = make_published(name)
    monkeypatch.setattr(detectors, "download", lambda *_: published.state_dict())
    model = build_detector(name, num_classes=91, image_size=64, pretrained=True)
    losses = []
    for network in (published.train(), model):
        torch.manual_seed(2)  # Faster R-CNN draws the boxes that it is trained on
        losses.append(network(IMAGES, TARGETS))
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        expected = published.eval().backbone(published.transform(IMAGES)[0].tensors)
        found = model.eval().extract_features(IMAGES)
    for level, features in expected.items():
        torch.testing.assert_close(found[level], features, rtol=0, atol=1e-5 * features.abs().max().item())
    # Generated weights can be loaded into torchvision's own network.
    published.load_state_dict(model.state_dict())
    trained = {key for key, value in published.named_parameters() if value.requires_grad}
    assert {key for key, value in model.named_parameters() if value.requires_grad} == trained
    norms = find_normalization_layers(model)
    assert sum(isinstance(model.get_submodule(norm), StillBatchNorm2d) for norm in norms) == 53


def test_the_subsets_of_the_task_files():
    with torch.device("meta"):
        faster, fcos = (
            build_detector(name, num_classes=91, image_size=800)
            for name in ("fasterrcnn_resnet50_fpn", "fcos_resnet50_fpn")
        )
    subset = resolve_subset(faster, "last_norms", 2)
    assert subset.num_params == 2 * (512 + 2048) and all("backbone.body.layer4.2.bn" in name for name in subset.names)
    assert resolve_subset(fcos, ["head.*.conv.10.*"]).num_params == 2 * 2 * 256


def test_still_statistics_stay_while_the_network_trains():
    norm = StillBatchNorm2d(3)
    norm.running_mean += 1.0
    before = {name: tensor.clone() for name, tensor in norm.state_dict().items()}
    outside = torch.nn.Sequential(norm).train()
    assert not norm.training and torch.equal(outside(torch.ones(2, 3, 4, 4)), torch.zeros(2, 3, 4, 4))
    assert all(torch.equal(tensor, before[name]) for name, tensor in norm.state_dict().items())
    assert not any(parameter.requires_grad for parameter in norm.parameters())


def test_without_any_weights_the_statistics_are_learned():
    with torch.device("meta"):
        model = build_detector("fcos_resnet50_fpn", num_classes=11, image_size=64)
    assert not any(isinstance(module, StillBatchNorm2d) for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("training", [True, False])
def test_a_detector_returns_losses_whenever_it_has_targets(small, training):
    small.train(training)
    statistics = small.backbone.body.bn1.running_mean.clone()
    losses = small(IMAGES, TARGETS)
    assert losses.keys() == {"classification", "bbox_regression", "bbox_ctrness"} and sum(losses.values()).isfinite()
    assert torch.equal(small.backbone.body.bn1.running_mean, statistics) != training
    detections = small(IMAGES)
    assert len(detections) == 2 and detections[0].keys() == {"boxes", "scores", "labels"}
    assert all(module.training == training for module in small.modules())


def test_every_parameter_of_the_small_detector_gets_a_gradient(small):
    sum(small(IMAGES, TARGETS).values()).backward()
    assert not [name for name, parameter in small.named_parameters() if parameter.grad is None]
    assert sum(parameter.numel() for parameter in small.parameters()) < 1_500_000


@torch.no_grad()
def test_known_features_replace_the_backbone(small):
    small.eval()
    features, expected = small.extract_features(IMAGES), small(IMAGES)
    small.backbone.body.conv1.weight.zero_()
    reused = small(IMAGES, None, features)
    for found, other in zip(reused, expected, strict=True):
        assert all(torch.equal(found[name], other[name]) for name in other)
    assert not torch.equal(small(IMAGES)[0]["scores"], expected[0]["scores"]), "the backbone itself is used again"


def test_a_recipe_is_rebuilt_without_a_download(small):
    recipe = {"name": "fcos_small", "options": {"head_layers": 3}, "small_stem": None}
    model, _ = rebuild(recipe, FACTS, state={}, source="file")
    assert resolve_subset(model, ["head.*.conv.7.*"]).num_params == 256
    recipe = {"name": "fcos_resnet50_fpn", "options": {"weights_backbone": "IMAGENET1K_V1"}}
    with torch.device("meta"):
        rebuild(recipe, FACTS, state={}, source="file")


MISTAKES = {
    "classes": (("fcos_resnet50_fpn", True, {}), "11"),
    "weights": (("fasterrcnn_resnet50_fpn", False, {"weights_backbone": "IMAGENET"}), "IMAGENET1K_V1"),
    "option": (("fasterrcnn_resnet50_fpn", False, {"box_nms": 3}), "box_nms"),
    "channels": (("fcos_small", False, {"pyramid_channels": 48}), "48"),
    "pretrained": (("fcos_small", True, {}), "task.model.pretrained=false"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence(mistake):
    (name, pretrained, options), word = MISTAKES[mistake]
    with torch.device("meta"), pytest.raises(UserError, match=word):
        build_from_spec(FACTS, ModelSpec(name, pretrained, options=options))


def test_weights_that_cannot_be_downloaded_name_the_way_out(monkeypatch):
    def fail(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(ResNet50_Weights, "get_state_dict", fail)
    with pytest.raises(UserError, match=r"no network.*weights_backbone=null"):
        build_detector(
            "fcos_resnet50_fpn", num_classes=11, image_size=64, options={"weights_backbone": "IMAGENET1K_V1"}
        )


def test_the_last_layers_of_faster_rcnn_can_be_trained_on_in_eval_mode():
    torch.manual_seed(0)
    model = build_detector("fasterrcnn_resnet50_fpn", num_classes=11, image_size=64).eval().requires_grad_(False)
    subset = resolve_subset(model, "last_norms", 2)
    vector_D = flatten(model, subset).requires_grad_()
    losses = torch.func.functional_call(model, unflatten(vector_D, subset), (IMAGES, TARGETS))
    assert losses.keys() == {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"}
    sum(losses.values()).backward()
    assert vector_D.grad.isfinite().all() and vector_D.grad.any() and not model.training
