"""The mean IoU of many networks equals its definition, and the influence of an image its derivative."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torchmetrics.functional.classification import multiclass_jaccard_index

from tasks.objectives.segmentation import PIXELS_PER_IMAGE, VOID, Segmentation, measure_mean_iou, sample_pixels
from tests.tasks.objectives.spread import assert_same_spread

CLASSES, SIZE = 4, (5, 6)


@pytest.fixture
def scored():
    """Return logits (M, N, C, H, W), masks and the scores of two batches."""
    torch.manual_seed(0)
    logits_MNCHW = torch.randn(3, 7, CLASSES, *SIZE)
    masks_NHW = torch.randint(CLASSES - 1, (7, *SIZE))  # the last class is only predicted
    masks_NHW[:, 0] = VOID
    counter = Segmentation(CLASSES).count_scores(3, torch.device("cpu"))
    for images in (slice(0, 4), slice(4, 7)):
        groups = ((slice(0, 2), logits_MNCHW[:2, images]), (slice(2, 3), logits_MNCHW[2:, images]))
        counter.add(iter(groups), masks_NHW[images])
    return logits_MNCHW, masks_NHW, counter.finish()


def test_the_mean_iou_equals_its_definition(scored):
    logits_MNCHW, masks_NHW, scores = scored
    expected = [
        multiclass_jaccard_index(logits, masks_NHW, CLASSES, average="macro", ignore_index=VOID).item()
        for logits in logits_MNCHW
    ]
    np.testing.assert_allclose(scores.accuracy_M, expected, rtol=1e-6)


def test_the_loss_is_the_mean_over_the_pixels_that_are_not_void(scored):
    logits_MNCHW, masks_NHW, scores = scored
    objective = Segmentation(CLASSES)
    expected = [objective.compute_loss(lambda _, logits=logits: logits, None, masks_NHW) for logits in logits_MNCHW]
    np.testing.assert_allclose(scores.loss_M, expected, rtol=1e-6)


def test_the_influence_of_an_image_is_the_derivative_to_its_weight(scored):
    random = np.random.default_rng(0)
    union_MNC = random.integers(0, 20, (2, 6, 3))
    union_MNC[:, :, 2] = 0  # a class that does not occur
    intersection_MNC = random.integers(0, union_MNC + 1)
    mean_iou_M, influence_MN = measure_mean_iou(intersection_MNC, union_MNC)
    np.testing.assert_allclose(influence_MN.mean(axis=1), mean_iou_M)
    for image in range(6):
        weights_N1 = np.ones((6, 1))
        weights_N1[image] += 1e-6
        moved_M = measure_mean_iou(intersection_MNC * weights_N1, union_MNC * weights_N1)[0]
        np.testing.assert_allclose((moved_M - mean_iou_M) / 1e-6, (influence_MN[:, image] - mean_iou_M) / 6, atol=1e-5)


def test_influences_have_the_spread_of_the_mean_iou_of_resampled_images():
    """Two models of different quality err on the same hard images. Some classes are on few images."""
    random, num_images, num_classes = np.random.default_rng(0), 150, 8
    pixels_NC = random.integers(20, 200, (num_images, num_classes)) * (
        random.random((num_images, num_classes)) < np.linspace(0.1, 1, num_classes)
    )
    hard_N1, quality_M11 = random.uniform(0.3, 0.9, (num_images, 1)), np.array([0.9, 0.8])[:, None, None]
    intersection_MNC = random.binomial(pixels_NC, np.broadcast_to(quality_M11 * hard_N1, (2, *pixels_NC.shape)))
    union_MNC = pixels_NC + random.binomial(pixels_NC, 0.3, intersection_MNC.shape)
    influence_MN = measure_mean_iou(intersection_MNC, union_MNC)[1]
    draws_RN = random.multinomial(num_images, np.full(num_images, 1 / num_images), size=200)
    exact_R2 = np.array(
        [
            measure_mean_iou(intersection_MNC * counts_N[:, None], union_MNC * counts_N[:, None])[0]
            for counts_N in draws_RN
        ]
    )
    assert_same_spread(draws_RN @ influence_MN.T / num_images, exact_R2)


def test_errors_are_those_of_sampled_pixels_in_groups_of_images(scored):
    logits_MNCHW, masks_NHW, scores = scored
    wrong_MNHW = logits_MNCHW.argmax(dim=2) != masks_NHW
    pixels_NP = sample_pixels(masks_NHW)
    expected = torch.stack([wrong.flatten(1).gather(1, pixels_NP).flatten() for wrong in wrong_MNHW])
    assert np.array_equal(scores.wrong_MN, expected)
    assert scores.groups_N.tolist() == [image for image in range(7) for _ in range(PIXELS_PER_IMAGE)]
    assert not (masks_NHW.flatten(1).gather(1, pixels_NP) == VOID).any()
    np.testing.assert_allclose(scores.influence_MN.mean(axis=1), scores.accuracy_M, rtol=1e-5)


def test_nan_predicts_no_class():
    logits_1BCHW = torch.zeros(1, 1, CLASSES, *SIZE)
    logits_1BCHW[:, :, 0] = 1
    logits_1BCHW[0, 0, :, 0, 0] = torch.nan
    counter = Segmentation(CLASSES).count_scores(1, torch.device("cpu"))
    counter.add([(slice(0, 1), logits_1BCHW)], torch.zeros(1, *SIZE, dtype=torch.int64))
    assert counter.finish().accuracy_M.tolist() == pytest.approx([29 / 30])


def test_an_image_that_is_void_everywhere_is_allowed():
    counter = Segmentation(CLASSES).count_scores(1, torch.device("cpu"))
    counter.add([(slice(0, 1), torch.zeros(1, 1, CLASSES, *SIZE))], torch.full((1, *SIZE), VOID))
    scores = counter.finish()
    assert scores.accuracy_M.tolist() == [0.0] and scores.loss_M.tolist() == [0.0] and scores.wrong_MN.all()


def test_the_training_loss_and_its_gradients_are_those_of_the_mean_over_pixels():
    torch.manual_seed(0)
    masks = torch.randint(CLASSES, (3, *SIZE))
    masks[:, :2] = VOID
    logits, reference = (torch.randn(3, CLASSES, *SIZE, generator=torch.manual_seed(1)) for _ in range(2))
    loss = Segmentation(CLASSES).compute_loss(lambda values: values, logits.requires_grad_(), masks)
    expected = cross_entropy(reference.requires_grad_(), masks, ignore_index=VOID)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    assert torch.equal(logits.grad, reference.grad), "the order of sums must not change a training"


def test_a_batch_that_is_void_everywhere_has_no_loss_and_no_gradient():
    logits = torch.randn(1, CLASSES, *SIZE, requires_grad=True)
    loss = Segmentation(CLASSES).compute_loss(lambda values: values, logits, torch.full((1, *SIZE), VOID))
    loss.backward()
    assert loss.item() == 0 and not logits.grad.any()


class Reductions(TorchDispatchMode):
    """A mode that records how the losses of pixels are reduced."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.nll_loss2d_forward.default:
            self.seen.append(args[3])
        return function(*args, **(kwargs or {}))


def test_only_losses_of_single_pixels_are_computed_because_a_gpu_has_no_deterministic_kernel_for_their_mean(scored):
    logits_MNCHW, masks_NHW, _ = scored
    objective = Segmentation(CLASSES)
    with Reductions() as reductions:
        objective.compute_loss(lambda values: {"out": values, "aux": values}, logits_MNCHW[0], masks_NHW)
        objective.count_scores(3, torch.device("cpu")).add([(slice(0, 3), logits_MNCHW)], masks_NHW)
    assert reductions.seen == [0] * 5
