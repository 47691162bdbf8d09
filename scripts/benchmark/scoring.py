"""Contests of scoring: one model behind a cached prefix, or many at once, against whole forward passes."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from core.checkpoints.subset import ParameterSubset, flatten, resolve_subset, unflatten
from core.runtime.precision import set_float32_precision
from scripts.benchmark.contest import Contest
from tasks.networks.build import build_classifier
from tasks.objectives.classification import Classification
from tasks.scoring.frozen_prefix import split_network
from tasks.scoring.scorer import Scorer, ScoringSpec

T = TypeVar("T")

# Cases that score the last two normalization layers, as name: (timm name, channels, image size).
CASES = {
    "ResNet-18, 16×16 digits": ("resnet18", 1, 16),
    "ResNet-18, 224×224": ("resnet18", 3, 224),
    "ResNet-50, 224×224": ("resnet50", 3, 224),
    "ViT-Tiny, 224×224": ("vit_tiny_patch16_224", 3, 224),
    "ConvNeXt-Tiny, 224×224": ("convnext_tiny", 3, 224),
}
BATCH, NUM_SUFFIX = 32, 10

# Cases that score every parameter of a mini network on images of 3×64×64.
WHOLE = {"MLP-mini, whole": "mlp_mini", "ViT-mini, whole": "vit_mini", "ConvNet-mini, whole": "convnet_mini"}
WHOLE_BATCH, NUM_WHOLE = 256, 32


def bind_in_float32(run: Callable[..., T], *arguments: Any) -> Callable[[], T]:
    """Return a call of `run` with these arguments, without gradients and in exact float32, also on GPUs."""

    def call() -> T:
        with torch.inference_mode(), set_float32_precision():
            return run(*arguments)

    return call


def make_contests(device: torch.device) -> Iterator[Contest]:
    """Yield the contests behind a cached prefix, then the contests of whole networks."""
    yield from make_prefix_contests(device)
    yield from make_whole_network_contests(device)


def make_whole_network_contests(device: torch.device) -> Iterator[Contest]:
    """Yield contests of networks without a frozen part, which gain only from running many models at once."""
    for case, name in WHOLE.items():
        torch.manual_seed(0)
        model = (
            build_classifier(name, num_classes=10, channels=3, image_size=64).to(device).eval().requires_grad_(False)
        )
        subset = resolve_subset(model, "all")
        images = TensorDataset(torch.randn(WHOLE_BATCH, 3, 64, 64), torch.zeros(WHOLE_BATCH, dtype=torch.long))
        options = ScoringSpec(batch_size=WHOLE_BATCH, device=device)
        scorer = Scorer(model, subset, images, objective=Classification(10), options=options)
        vectors_MD = (flatten(model, subset) + 0.01 * torch.randn(NUM_WHOLE, subset.num_params)).to(device)
        on_device = images.tensors[0].to(device)
        yield Contest(
            "scoring",
            case,
            f"model, {WHOLE_BATCH} images",
            ours=bind_in_float32(compute_logits_at_once, scorer, on_device, vectors_MD),
            reference=bind_in_float32(compute_logits_one_by_one, model, subset, on_device, vectors_MD),
            our_units=NUM_WHOLE,
            reference_units=NUM_WHOLE,
        )


def compute_logits_at_once(scorer: Scorer, images: Tensor, vectors_MD: Tensor) -> Tensor:
    """Return the logits of all models from one call of the scorer, (M, B, classes)."""
    predictions = scorer.predict(scorer.network.cache(images), vectors_MD, len(images))
    return torch.cat([logits for _, logits in predictions])


def compute_logits_one_by_one(
    model: nn.Module, subset: ParameterSubset, images: Tensor, vectors_MD: Tensor
) -> list[Tensor]:
    """Return the logits of each model from a separate forward pass."""
    return [run_whole_network(model, unflatten(vector_D, subset), images) for vector_D in vectors_MD]


def run_whole_network(model: nn.Module, parameters: dict[str, Tensor], images: Tensor) -> Tensor:
    """Return the logits of a forward pass through the whole network with `parameters` in place of its own."""
    return torch.func.functional_call(model, parameters, (images,))


def make_prefix_contests(device: torch.device) -> Iterator[Contest]:
    """Yield contests of the suffix behind a cached prefix against the whole forward pass."""
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
        vector_D = flatten(model, subset).to(device) + 0.1 * torch.randn(subset.num_params, device=device)
        parameters = unflatten(vector_D, subset)
        crossing = bind_in_float32(network.cache, images)()
        suffix = bind_in_float32(network.run, crossing, parameters)
        reference = bind_in_float32(run_whole_network, model, parameters, images)
        cached_bytes = sum(tensor.nbytes for tensor in crossing if isinstance(tensor, Tensor))
        yield Contest(
            "scoring",
            case,
            f"model, {batch} images",
            ours=partial(repeat, suffix, NUM_SUFFIX),
            reference=reference,
            our_units=NUM_SUFFIX,
            facts={**compare_logits(suffix(), reference()), "cache_megabytes_per_image": cached_bytes / batch / 1e6},
        )


def repeat(run: Callable[[], T], times: int) -> list[T]:
    """Call `run` several times and return all results."""
    return [run() for _ in range(times)]


def compare_logits(ours: Tensor, full: Tensor) -> dict[str, Any]:
    """Return whether two tables of logits predict the same classes, and their largest difference."""
    return {
        "same_predictions": bool((ours.argmax(1) == full.argmax(1)).all()),
        "largest_logit_difference": float((ours - full).abs().max()),
    }
