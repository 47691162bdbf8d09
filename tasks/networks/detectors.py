"""Detectors: torchvision's Faster R-CNN and FCOS with ResNet-50, and a small FCOS for scenes of about 64 pixels."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from timm.models.resnet import BasicBlock, ResNet
from torch import Tensor, nn
from torchvision.models import WeightsEnum
from torchvision.models.detection import (
    FCOS,
    FasterRCNN,
    FasterRCNN_ResNet50_FPN_Weights,
    FCOS_ResNet50_FPN_Weights,
)
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN, resnet_fpn_backbone
from torchvision.models.detection.fcos import FCOSHead
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from core.runtime.errors import UserError, suggest_names
from tasks.networks.published import (
    INITIAL_WEIGHTS,
    build_with_options,
    download,
    download_resnet50,
    require_resnet50_weights,
)

LONGER_SIDE = 1333 / 800  # the longest allowed side of an image, relative to the shorter side
COLORS = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}  # torchvision's, as in ImageNet


class StillBatchNorm2d(nn.BatchNorm2d):
    """A BatchNorm that always uses its stored statistics, as torchvision's FrozenBatchNorm2d does.

    Detectors train on a few large images at once, whose statistics are too noisy. Weight and bias are parameters, so
    that they can be generated, but the training of the whole network leaves them as they are.
    """

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        super().train(False)
        self.requires_grad_(False)

    def train(self, mode: bool = True) -> "StillBatchNorm2d":
        """Stay in eval mode."""
        return super().train(False)


class LossesOnRequest(nn.Module):
    """What the detectors below add to those of torchvision: their answer does not depend on the mode.

    With targets they return losses, and without targets detections. torchvision's detectors return losses in training
    mode only, but checkpoints are collected in eval mode, in which normalization layers keep their statistics.
    """

    backbone: nn.Module
    transform: nn.Module

    def forward(
        self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None, features: Any = None
    ) -> Any:
        """Return a dictionary of losses if there are targets, and a list of detections otherwise.

        Args:
            images: The images (3, H, W), of numbers from 0 to 1.
            targets: `boxes` and `labels` of each image.
            features: The result of `extract_features`, if it is known.
        """
        with self._answer(losses=targets is not None), self._reuse(features):
            return super().forward(images, targets)

    def extract_features(self, images: list[Tensor]) -> Any:
        """Return what the backbone makes of the images."""
        return self.backbone(self.transform(images)[0].tensors)

    @contextmanager
    def _answer(self, *, losses: bool) -> Iterator[None]:
        """Let the parts that return losses in training mode return them, or not."""
        parts = [self, self.transform, *(getattr(self, name) for name in ("rpn", "roi_heads") if hasattr(self, name))]
        modes = [part.training for part in parts]
        for part in parts:
            part.training = losses
        try:
            yield
        finally:
            for part, mode in zip(parts, modes, strict=True):
                part.training = mode

    @contextmanager
    def _reuse(self, features: Any) -> Iterator[None]:
        """Let the backbone return these features; None lets it compute them."""
        if features is None:
            yield
            return
        self.backbone.forward = lambda _: features
        try:
            yield
        finally:
            del self.backbone.forward


class FasterRCNNDetector(LossesOnRequest, FasterRCNN):
    """Faster R-CNN (Ren et al. 2015), with the names of torchvision's parameters."""


class FCOSDetector(LossesOnRequest, FCOS):
    """FCOS (Tian et al. 2019), with the names of torchvision's parameters."""


def make_fasterrcnn_resnet50(
    num_classes: int, image_size: int, pretrained: bool, *, weights_backbone: str | None = None, **options: Any
) -> nn.Module:
    """Return torchvision's `fasterrcnn_resnet50_fpn`; `build_detector` explains the arguments."""
    require_arguments(FasterRCNN, options)
    backbone = make_resnet50_backbone(pretrained, weights_backbone)
    model = FasterRCNNDetector(backbone, num_classes, **choose_sides(image_size), **options)
    if pretrained:
        load_published(model, FasterRCNN_ResNet50_FPN_Weights.COCO_V1, num_classes)
        remove_epsilon(model)
    return model


def make_fcos_resnet50(
    num_classes: int, image_size: int, pretrained: bool, *, weights_backbone: str | None = None, **options: Any
) -> nn.Module:
    """Return torchvision's `fcos_resnet50_fpn`; `build_detector` explains the arguments."""
    require_arguments(FCOS, options)
    pyramid = {"returned_layers": [2, 3, 4], "extra_blocks": LastLevelP6P7(256, 256)}
    backbone = make_resnet50_backbone(pretrained, weights_backbone, **pyramid)
    model = FCOSDetector(backbone, num_classes, **choose_sides(image_size), **options)
    if pretrained:
        load_published(model, FCOS_ResNet50_FPN_Weights.COCO_V1, num_classes)
    return model


def make_fcos_small(
    num_classes: int,
    image_size: int,
    pretrained: bool,
    *,
    channels: Sequence[int] = (16, 32, 64, 96),
    layers: Sequence[int] = (1, 1, 1, 1),
    pyramid_channels: int = 64,
    head_layers: int = 2,
    **options: Any,
) -> nn.Module:
    """Return an FCOS for objects of about 10 to 30 pixels, with feature maps of strides 4, 8 and 16.

    Args:
        num_classes: The number of classes, with the background.
        image_size: The length to which the shorter side of an image is brought, in pixels.
        pretrained: Must be false, because there are no published weights.
        channels: The channels of the four stages of the backbone.
        layers: The residual blocks of the four stages.
        pyramid_channels: The channels of all feature maps, a multiple of 32.
        head_layers: The convolutions in each of the two branches of the head.
        options: Further arguments of torchvision's FCOS.

    Raises:
        UserError: Pretrained weights are asked for.
    """
    if pretrained:
        raise UserError(
            "task.model.pretrained=true: no pretrained weights for fcos_small are published. Set "
            "task.model.pretrained=false"
        )
    require_arguments(FCOS, options)
    stages: Any = ResNet(BasicBlock, tuple(layers), channels=tuple(channels), num_classes=0)  # type: ignore[arg-type]
    stages.maxpool = nn.Identity()  # small objects need maps of a quarter of the side, which the second stage then has
    returned = {f"layer{stage}": str(stage) for stage in (2, 3, 4)}
    backbone = BackboneWithFPN(stages, returned, list(channels[1:]), pyramid_channels)
    # FCOS gives an object to a map by its size, relative to that of the anchors. Anchors of half the stride divide
    # objects at 16 and at 32 pixels; those of the last map are for the pooled one that torchvision appends.
    anchors = AnchorGenerator(((2,), (4,), (8,), (16,)), ((1.0,),) * 4)
    head = FCOSHead(pyramid_channels, 1, num_classes, head_layers)
    limits = {"score_thresh": 0.05, "topk_candidates": 100}  # there are few objects, and fewer candidates save time
    given = {"anchor_generator": anchors, "head": head, **limits, **choose_sides(image_size), **options}
    return FCOSDetector(backbone, num_classes, **given)


DETECTORS: dict[str, Callable[..., nn.Module]] = {
    "fasterrcnn_resnet50_fpn": make_fasterrcnn_resnet50,
    "fcos_resnet50_fpn": make_fcos_resnet50,
    "fcos_small": make_fcos_small,
}


def build_detector(
    name: str,
    *,
    num_classes: int,
    image_size: int,
    pretrained: bool = False,
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Return a detector with new or pretrained weights, in training mode. It takes color images of any size.

    Args:
        name: A name in `DETECTORS`.
        num_classes: The number of classes, with the background.
        image_size: The length to which the shorter side of an image is brought, in pixels.
        pretrained: Start from torchvision's published weights (downloaded at first use), which have 91 classes.
        options: Further arguments of torchvision's detector, or `weights_backbone`, the name of torchvision's weights
            of ResNet-50 that the backbone starts from.

    Raises:
        UserError: The network does not take the options, or its weights cannot be loaded.
    """
    return build_with_options(DETECTORS[name], name, num_classes, image_size, pretrained, options=options or {})


def require_arguments(detector: type, options: Mapping[str, Any]) -> None:
    """Check that a class of torchvision has these arguments, because it ignores those that it does not know.

    Raises:
        TypeError: An argument is unknown.
    """
    known = inspect.signature(detector).parameters
    if unknown := [name for name in options if name not in known]:
        raise TypeError(f"there is no option {unknown[0]}; {suggest_names(unknown[0], known)}")


def choose_sides(image_size: int) -> dict[str, Any]:
    """Return the options of torchvision's detectors about the size and the colors of images."""
    return {"min_size": image_size, "max_size": round(image_size * LONGER_SIDE), **COLORS}


def make_resnet50_backbone(pretrained: bool, weights_backbone: str | None, **pyramid: Any) -> BackboneWithFPN:
    """Return ResNet-50 with a feature pyramid, of which torchvision trains all or the last three stages.

    Without any weights, BatchNorm has no statistics yet, so it learns them.

    Args:
        pretrained: Whether published weights of the whole detector will be loaded.
        weights_backbone: The name of torchvision's weights of ResNet-50; None for none.
        pyramid: Further arguments of torchvision's `resnet_fpn_backbone`.

    Raises:
        UserError: The weights are unknown or cannot be loaded.
    """
    require_resnet50_weights(weights_backbone)
    has_weights = pretrained or weights_backbone is not None
    norm_layer, trained = (StillBatchNorm2d, 3) if has_weights else (nn.BatchNorm2d, 5)
    backbone = resnet_fpn_backbone(
        backbone_name="resnet50", weights=None, norm_layer=norm_layer, trainable_layers=trained, **pyramid
    )
    if weights_backbone is not None and not pretrained:
        state = download_resnet50(weights_backbone)
        own = backbone.body.state_dict()
        backbone.body.load_state_dict({name: tensor for name, tensor in state.items() if name in own})
    return backbone


def load_published(model: nn.Module, weights: WeightsEnum, num_classes: int) -> None:
    """Load torchvision's published weights of a whole detector.

    Raises:
        UserError: The images have another number of classes, or the weights cannot be loaded.
    """
    published = len(weights.meta["categories"])
    if num_classes != published:
        raise UserError(
            f"task.model.pretrained=true: the published detector has {published} classes, but the images have "
            f"{num_classes}. Set task.model.pretrained=false and task.model.options.{INITIAL_WEIGHTS}=IMAGENET1K_V1"
        )
    model.load_state_dict(download(weights))


def remove_epsilon(model: nn.Module) -> None:
    """Rescale the weight of each BatchNorm so that the network computes what it would without `eps`.

    torchvision uses its weights of Faster R-CNN with eps = 0, because they were trained like that.
    """
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, StillBatchNorm2d):
                variance = module.get_buffer("running_var").double()
                module.weight.mul_(((variance + module.eps) / variance).sqrt())
