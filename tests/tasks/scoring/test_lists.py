"""Detectors are scored on lists of images of different sizes, with a shared backbone or with full forward passes."""

import numpy as np
import pytest
import torch

from core.checkpoints.subset import flatten, resolve_subset
from tasks.data.scenes import collate_detection
from tasks.data.splits import ColorNormalizer, FixedItems, draw_fixed_sample
from tasks.networks.detectors import build_detector
from tasks.objectives.detection import Detection
from tasks.scoring.frozen_prefix import FrozenBackbone, WholeNetwork
from tasks.scoring.scorer import Scorer, ScoringSpec, choose_batch_size

SMALL = {"channels": [8, 8, 16, 16], "pyramid_channels": 32}
SUBSETS = {"head.*.conv.4.*": FrozenBackbone, "backbone.body.layer4.0.bn2.[wb]*": WholeNetwork}
NORMALIZE = ColorNormalizer(((0.0,) * 3, (1.0,) * 3))


def make_items():
    torch.manual_seed(0)
    items = []
    for index in range(7):
        image = torch.randint(256, (3, 64, 64 + 8 * (index % 3)), dtype=torch.uint8)
        boxes = torch.tensor([[8.0, 8, 30, 30]] * (index % 3)).reshape(-1, 4)
        labels = torch.full((len(boxes),), 1 + index % 2)
        items.append((image, {"boxes": boxes, "labels": labels, "image_id": index}))
    return FixedItems(items)


@pytest.mark.parametrize("pattern", SUBSETS)
@pytest.mark.parametrize("cache_bytes", ["auto", 0])
def test_a_list_is_scored_like_each_network_on_each_image(pattern, cache_bytes):
    items, objective = make_items(), Detection(3)
    model = build_detector("fcos_small", num_classes=3, image_size=64, options=SMALL).eval()
    subset = resolve_subset(model, [pattern])
    vectors_MD = flatten(model, subset) + 0.3 * torch.randn(3, subset.num_params)
    options = ScoringSpec(batch_size=3, cache_bytes=cache_bytes)
    score = Scorer(
        model, subset, items, objective=objective, normalize=NORMALIZE, options=options, collate=collate_detection
    )
    assert type(score.network) is SUBSETS[pattern]
    counter = objective.count_scores(3, torch.device("cpu"))
    found = score(vectors_MD), score(vectors_MD)
    entries = dict(model.named_parameters())
    for start in range(0, 7, 3):  # the same batches, because torchvision pads the images of a batch to one size
        images, targets = collate_detection([items[index] for index in range(start, min(start + 3, 7))])
        predictions = []
        with torch.no_grad():
            for row, vector_D in enumerate(vectors_MD):
                for name, part in zip(subset.names, vector_D.split(subset.sizes), strict=True):
                    entries[name].copy_(part.view_as(entries[name]))
                detections = model(NORMALIZE(images))
                one = [{name: value[None] for name, value in image.items()} for image in detections]
                predictions.append((slice(row, row + 1), one))
        counter.add(predictions, targets)
    expected = counter.finish()
    for scores in found:
        np.testing.assert_allclose(scores.accuracy_M, expected.accuracy_M, atol=1e-12)
        assert np.array_equal(scores.wrong_MN, expected.wrong_MN)


def test_few_large_images_are_scored_at_once():
    large = FixedItems([(torch.zeros(3, 480, 640, dtype=torch.uint8), {})])
    for items, expected in ((large, 8), (make_items(), 256)):
        for device in (torch.device("cpu"), torch.device("cuda")):
            limit = Detection(3).limit_batch(items[0][0], device)
            assert limit == expected == choose_batch_size(items, device, limit)


def test_a_sample_of_scenes_keeps_their_sizes():
    sample = draw_fixed_sample(make_items(), 5)
    assert len(sample) == 5 and len({sample[index][0].shape for index in range(5)}) > 1
