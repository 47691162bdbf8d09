"""Tests of scoring on a GPU: fp32 gives the results of the CPU, and lower precisions nearly agree with fp32."""

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from core.checkpoints.subset import flatten, resolve_subset
from tasks.data.splits import ColorNormalizer
from tasks.networks.build import build_classifier
from tasks.objectives.classification import Classification
from tasks.scoring import prefix_cache
from tasks.scoring.scorer import Scorer, ScoringSpec

NETWORKS = {
    "resnet18": {"image_size": 16},
    "vit_tiny_patch16_224": {"image_size": 32, "options": {"img_size": 32, "patch_size": 8}},
    "convnext_tiny": {"image_size": 32, "options": {"depths": (1, 1, 2, 2)}},
    "mlp_mini": {"image_size": 16},  # every parameter is generated, and many models are scored at once
}
BATCH = 8  # the last chunk of the 22 images is not full


def score(name, device, precision="fp32", **options):
    """Score 4 vectors of a random network on 22 random images of bytes; return the scorer and its scores."""
    torch.manual_seed(0)
    model = build_classifier(name, num_classes=5, channels=3, **NETWORKS[name]).eval()
    subset = resolve_subset(model, "all" if name == "mlp_mini" else "last_norms")
    vector_D, size = flatten(model, subset), NETWORKS[name]["image_size"]
    vectors_MD = vector_D + (0.05 if name == "mlp_mini" else 0.5) * torch.randn(4, len(vector_D))
    images = TensorDataset(torch.randint(256, (22, 3, size, size), dtype=torch.uint8), torch.randint(5, (22,)))
    normalize = ColorNormalizer(((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)))
    scoring = ScoringSpec(batch_size=BATCH, device=device, precision=precision, **options)
    scorer = Scorer(model, subset, images, objective=Classification(4), normalize=normalize, options=scoring)
    return scorer, scorer(vectors_MD), vectors_MD


@pytest.mark.parametrize("name", NETWORKS)
def test_in_fp32_the_device_scores_as_the_cpu(device, name):
    _, on_cpu, _ = score(name, torch.device("cpu"))
    scorer, on_device, vectors_MD = score(name, device)
    for scores in (on_device, scorer(vectors_MD)):  # the second call uses the cached frozen part
        assert np.array_equal(scores.wrong_MN, on_cpu.wrong_MN)
        np.testing.assert_allclose(scores.loss_M, on_cpu.loss_M, rtol=0, atol=1e-4)
        np.testing.assert_allclose(scores.votes.loss_PN, on_cpu.votes.loss_PN, rtol=0, atol=1e-4)
        np.testing.assert_allclose(scores.votes.fitted_P, on_cpu.votes.fitted_P, rtol=1e-3)


@pytest.mark.parametrize("cache_bytes", [0, 300_000, "auto"])
def test_the_size_of_the_cache_does_not_change_the_scores(device, cache_bytes):
    _, expected, _ = score("resnet18", device)
    scorer, first, vectors_MD = score("resnet18", device, cache_bytes=cache_bytes)
    for scores in (first, scorer(vectors_MD)):
        assert np.array_equal(scores.wrong_MN, expected.wrong_MN)
        np.testing.assert_allclose(scores.loss_M, expected.loss_M, rtol=1e-6)


def test_chunks_that_do_not_fit_on_the_gpu_are_kept_in_pinned_memory(gpu, monkeypatch):
    _, expected, _ = score("resnet18", gpu)
    bytes_of_one_chunk = sum(tensor.nbytes for tensor in next(iter(score("resnet18", gpu)[0].chunks)).tensors())
    free = {"cuda": 1.5 * bytes_of_one_chunk / prefix_cache.SHARE, "cpu": 1e9}
    monkeypatch.setattr(prefix_cache, "count_free_bytes", lambda device: free[device.type])
    scorer, first, vectors_MD = score("resnet18", gpu)
    kept = [chunk.labels_B for chunk in scorer.chunks._kept]
    assert kept[0].is_cuda and kept[-1].is_pinned() and len(kept) == len(scorer.chunks)
    for scores in (first, scorer(vectors_MD)):
        assert np.array_equal(scores.wrong_MN, expected.wrong_MN)
        np.testing.assert_allclose(scores.loss_M, expected.loss_M, rtol=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("precision, least", [("tf32", 0.9), ("bf16", 0.75)])  # random networks have many near ties
def test_lower_precisions_nearly_agree(gpu, name, precision, least):
    scorer, scores, _ = score(name, gpu, precision)
    assert np.isfinite(scores.loss_M).all() and scorer.agreement > least
