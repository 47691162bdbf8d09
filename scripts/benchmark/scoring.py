"""Scoring one model: the suffix behind a cached prefix, against the full forward pass."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import TensorDataset

from core.checkpoints.subset import flatten, resolve_subset, unflatten
from core.runtime.precision import float32_products
from scripts.benchmark.contest import Contest
from tasks.networks.build import build_classifier
from tasks.scoring.frozen_prefix import split_network
from tasks.scoring.scorer import Scorer, ScoringSpec

CASES = {  # name: (timm name, channels, image size); the last two normalization layers
    "ResNet-18, 16×16 digits": ("resnet18", 1, 16),
    "ResNet-18, 224×224": ("resnet18", 3, 224),
    "ResNet-50, 224×224": ("resnet50", 3, 224),
    "ViT-Tiny, 224×224": ("vit_tiny_patch16_224", 3, 224),
    "ConvNeXt-Tiny, 224×224": ("convnext_tiny", 3, 224),
}
BATCH, NUM_SUFFIX = 32, 10


WHOLE = {
    "MLP-mini, whole": "mlp_mini",
    "ViT-mini, whole": "vit_mini",
    "ConvNet-mini, whole": "convnet_mini",
}  # at 3×64×64
WHOLE_BATCH, NUM_WHOLE = 256, 32


def exactly(run: Callable[[], Any]) -> Callable[[], Any]:
    """The call in fp32 on GPUs, too, without gradients."""
    return torch.inference_mode()(float32_products()(run))


def contests(device: torch.device) -> Iterator[Contest]:
    """The last two norm layers of each network, fp32, one chunk of images; then whole small networks."""
    yield from behind_a_prefix(device)
    yield from whole_networks(device)


def whole_networks(device: torch.device) -> Iterator[Contest]:
    """Nothing is frozen: what can be gained is in running many models at once."""
    for case, name in WHOLE.items():
        torch.manual_seed(0)
        model = (
            build_classifier(name, num_classes=10, channels=3, image_size=64).to(device).eval().requires_grad_(False)
        )
        subset = resolve_subset(model, "all")
        images = TensorDataset(torch.randn(WHOLE_BATCH, 3, 64, 64), torch.zeros(WHOLE_BATCH, dtype=torch.long))
        scorer = Scorer(model, subset, images, options=ScoringSpec(batch_size=WHOLE_BATCH, device=device))
        vectors_MD = flatten(model, subset) + 0.01 * torch.randn(NUM_WHOLE, subset.num_params)
        on_device = images.tensors[0].to(device)

        def one_by_one(model=model, subset=subset, vectors_MD=vectors_MD.to(device), images=on_device):
            return [
                torch.func.functional_call(model, unflatten(vector_D, subset), (images,)) for vector_D in vectors_MD
            ]

        yield Contest(
            "scoring",
            case,
            f"model, {WHOLE_BATCH} images",
            ours=exactly(
                lambda scorer=scorer, images=on_device, vectors_MD=vectors_MD.to(device): scorer.logits(
                    scorer.network.cache(images), vectors_MD
                )
            ),
            reference=exactly(one_by_one),
            our_units=NUM_WHOLE,
            reference_units=NUM_WHOLE,
        )


def behind_a_prefix(device: torch.device) -> Iterator[Contest]:
    """The suffix behind a cached prefix against the full forward pass."""
    for case, (name, channels, size) in CASES.items():
        torch.manual_seed(0)
        batch = 256 if size == 16 else BATCH
        model = (
            build_classifier(name, num_classes=100, channels=channels, image_size=size)
            .to(device)
            .eval()
            .requires_grad_(False)
        )
        subset = resolve_subset(model, "last_norms", count=2)
        images = torch.randn(batch, channels, size, size, device=device)
        network = split_network(model, subset.names, images)
        parameters = unflatten(
            flatten(model, subset).to(device) + 0.1 * torch.randn(subset.num_params, device=device), subset
        )
        with torch.inference_mode(), float32_products():
            crossing = network.cache(images)
            ours, full = network.logits(crossing, parameters), torch.func.functional_call(model, parameters, (images,))
        yield Contest(
            "scoring",
            case,
            f"model, {batch} images",
            ours=exactly(lambda: [network.logits(crossing, parameters) for _ in range(NUM_SUFFIX)]),
            reference=exactly(lambda: torch.func.functional_call(model, parameters, (images,))),
            our_units=NUM_SUFFIX,
            facts={
                "same_predictions": bool((ours.argmax(1) == full.argmax(1)).all()),
                "largest_logit_difference": float((ours - full).abs().max()),
                "cache_megabytes_per_image": sum(
                    tensor.nbytes for tensor in crossing if isinstance(tensor, torch.Tensor)
                )
                / batch
                / 1e6,
            },
        )
