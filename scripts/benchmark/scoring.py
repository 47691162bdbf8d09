"""Scoring one model: the suffix behind a cached prefix, against the full forward pass."""

from collections.abc import Iterator

import torch

from core.checkpoints.subset import flatten, resolve_subset, unflatten
from scripts.benchmark.contest import Contest
from tasks.frozen_prefix import split_network
from tasks.models import build_classifier

CASES = {  # name: (timm name, channels, image size)
    "ResNet-18, 16×16 digits": ("resnet18", 1, 16),
    "ResNet-18, 224×224": ("resnet18", 3, 224),
    "ResNet-50, 224×224": ("resnet50", 3, 224),
    "ViT-Tiny, 224×224": ("vit_tiny_patch16_224", 3, 224),
    "ConvNeXt-Tiny, 224×224": ("convnext_tiny", 3, 224),
}
BATCH, NUM_SUFFIX = 32, 10


def contests(device: torch.device) -> Iterator[Contest]:
    """One per network: the last two norm layers, fp32, one chunk of images."""
    for case, (name, channels, size) in CASES.items():
        torch.manual_seed(0)
        batch = 256 if size == 16 else BATCH
        model = build_classifier(name, 100, channels, size).to(device).eval().requires_grad_(False)
        subset = resolve_subset(model, "last_norms", count=2)
        images = torch.randn(batch, channels, size, size, device=device)
        network = split_network(model, subset.names, images)
        parameters = unflatten(flatten(model, subset).to(device) + 0.1 * torch.randn(subset.num_params, device=device), subset)
        with torch.inference_mode():
            crossing = network.cache(images)
            ours, full = network.logits(crossing, parameters), torch.func.functional_call(model, parameters, (images,))
        yield Contest(
            "scoring",
            case,
            f"model, {batch} images",
            ours=torch.inference_mode()(lambda: [network.logits(crossing, parameters) for _ in range(NUM_SUFFIX)]),
            reference=torch.inference_mode()(lambda: torch.func.functional_call(model, parameters, (images,))),
            our_units=NUM_SUFFIX,
            facts={
                "same_predictions": bool((ours.argmax(1) == full.argmax(1)).all()),
                "largest_logit_difference": float((ours - full).abs().max()),
                "cache_megabytes_per_image": sum(tensor.nbytes for tensor in crossing if isinstance(tensor, torch.Tensor)) / batch / 1e6,
            },
        )
