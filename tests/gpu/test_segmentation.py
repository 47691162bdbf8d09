"""Tests of segmentation on a GPU: training with deterministic algorithms, and scores as on the CPU."""

import numpy as np
import torch

from tasks.networks.segmenters import build_segmenter
from tasks.objectives.segmentation import VOID, Segmentation

CLASSES = 4


def make_batch(device):
    generator = torch.Generator().manual_seed(0)
    images, masks = (
        torch.rand(3, 3, 16, 16, generator=generator),
        torch.randint(CLASSES, (3, 16, 16), generator=generator),
    )
    masks[:, 0] = VOID
    return images.to(device), masks.to(device)


def test_a_training_step_with_deterministic_algorithms_repeats_its_gradients(device, deterministic):
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(0)
    network = build_segmenter("fcn_small", num_classes=CLASSES, channels=3, options={"channels": [4, 4, 8, 8]})
    network.to(device).train()
    gradients = []
    for _ in range(2):
        network.zero_grad()
        torch.manual_seed(0)  # of dropout
        Segmentation(CLASSES).compute_loss(network, *make_batch(device)).backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in network.parameters()]))
    assert torch.equal(*gradients) and gradients[0].any()


def test_scores_on_the_device_are_those_on_the_cpu(device):
    scores = []
    for where in (device, torch.device("cpu")):
        counter = Segmentation(CLASSES).count_scores(2, where)
        logits = torch.randn(2, 3, CLASSES, 16, 16, generator=torch.Generator().manual_seed(1)).to(where)
        counter.add([(slice(0, 2), logits)], make_batch(where)[1])
        scores.append(counter.finish())
    np.testing.assert_array_equal(scores[0].wrong_MN, scores[1].wrong_MN)
    np.testing.assert_allclose(scores[0].accuracy_M, scores[1].accuracy_M, rtol=1e-12)
    np.testing.assert_allclose(scores[0].loss_M, scores[1].loss_M, rtol=1e-5)
