"""Semantic segmentation: cross-entropy of pixels, mean IoU over the classes, and errors on a sample of the pixels.

M models · N images · B images in one batch · C classes · H height · W width · P sampled pixels of each image
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from core.evaluation.scores import Metric, Scores
from tasks.objectives.objective import MOST_ITEMS, Network, Objective, ScoreCounter

VOID = 255  # the class of pixels that neither the loss nor the score counts
MEAN_IOU = Metric("mean IoU", "mean over classes of intersection over union", higher_is_better=True, in_percent=True)
AUXILIARY = 0.5  # weight of the auxiliary head, as in torchvision's reference recipe
MOST_OUTPUTS = {"cpu": 2**24, "cuda": 2**28}  # logits of one model at once; 64 MB, or 1 GB on a GPU
# The errors of all pixels would take P = H · W numbers for each model and image, and neighboring pixels err together.
PIXELS_PER_IMAGE = 32
GOLDEN_RATIO = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class Segmentation(Objective):
    """Each pixel belongs to one of C classes.

    Networks return logits (B, C, H, W), or in training mode a dictionary of them with the heads "out" and "aux", as
    torchvision's networks do. Targets are masks (B, H, W).
    """

    num_classes: int
    metric = MEAN_IOU

    def compute_loss(self, network: Network, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy of the pixels that are not void."""
        outputs = network(inputs)
        heads = outputs if isinstance(outputs, Mapping) else {"out": outputs}
        losses = {name: average_cross_entropy(logits, targets) for name, logits in heads.items()}
        return losses["out"] + (AUXILIARY * losses["aux"] if "aux" in losses else 0)

    def count_scores(
        self, num_models: int, device: torch.device, temperature_P: np.ndarray | None = None
    ) -> "SegmentationCounter":
        """Return a counter of intersections and unions; there are no votes."""
        return SegmentationCounter(self.num_classes)

    def limit_batch(self, inputs: Tensor, device: torch.device) -> int:
        """Return the number of images (3, H, W) whose logits fit into memory."""
        most = MOST_OUTPUTS.get(device.type, MOST_OUTPUTS["cpu"])
        return max(1, min(MOST_ITEMS, most // (self.num_classes * inputs.shape[-2:].numel())))

    def measure_agreement(self, predictions: Tensor, exact: Tensor) -> float:
        """Return the share of pixels for which both logits (M, B, C, H, W) predict the same class."""
        return (predictions.argmax(dim=2) == exact.argmax(dim=2)).double().mean().item()


class SegmentationCounter(ScoreCounter):
    """Intersection and union of each class on each image, the loss of each image, and errors on sampled pixels."""

    def __init__(self, num_classes: int):
        self.num_classes = num_classes
        self.batches: list[dict[str, np.ndarray]] = []

    def add(self, predictions: Iterable[tuple[slice, Tensor]], targets: Tensor) -> None:
        """Add the logits (models, B, C, H, W), and the masks (B, H, W)."""
        batch = TargetBatch.describe(targets, self.num_classes)
        groups = [batch.compare(logits_BCHW) for _, group in predictions for logits_BCHW in group]
        # Results stay on the device until those of all models are copied at once, because every copy waits for it.
        self.batches.append({name: torch.stack([one[name] for one in groups]).cpu().numpy() for name in groups[0]})

    def finish(self) -> Scores:
        """Return the scores, in which each item is one sampled pixel, and the pixels of an image are a group."""
        totals = {name: np.concatenate([batch[name] for batch in self.batches], axis=1) for name in self.batches[0]}
        mean_iou_M, influence_MN = measure_mean_iou(totals["intersection"], totals["union"])
        loss_M = totals["loss"].sum(axis=1) / np.maximum(totals["pixels"].sum(axis=1), 1)
        wrong_MNP = totals["wrong"]
        num_images, num_pixels = wrong_MNP.shape[1:]
        return Scores(
            mean_iou_M,
            loss_M,
            wrong_MNP.reshape(len(wrong_MNP), -1),
            metric=MEAN_IOU,
            groups_N=np.repeat(np.arange(num_images), num_pixels),
            influence_MN=np.repeat(influence_MN, num_pixels, axis=1).astype(np.float32),
        )


@dataclass(frozen=True)
class TargetBatch:
    """The masks of one batch, and all that does not depend on the models.

    Pixels of each class are counted by comparing them with every class. `torch.bincount` would need fewer numbers, but
    on a GPU it waits for the device.
    """

    targets_BHW: Tensor
    is_valid_BHW: Tensor
    is_class_BCHW: Tensor
    sampled_BP: Tensor  # indices of the pixels whose errors are kept

    @classmethod
    def describe(cls, targets_BHW: Tensor, num_classes: int) -> "TargetBatch":
        """Describe the masks of one batch."""
        is_class_BCHW = compare_with_classes(targets_BHW, num_classes)
        return cls(targets_BHW, targets_BHW != VOID, is_class_BCHW, sample_pixels(targets_BHW))

    def compare(self, logits_BCHW: Tensor) -> dict[str, Tensor]:
        """Return what the scores need of one model. A NaN predicts no class, so it counts as wrong."""
        num_classes = logits_BCHW.shape[1]
        predicted_BHW = logits_BCHW.argmax(dim=1).masked_fill(logits_BCHW.isnan().any(dim=1), num_classes)
        counted_BHW = predicted_BHW.masked_fill(~self.is_valid_BHW, num_classes)
        is_predicted_BCHW = compare_with_classes(counted_BHW, num_classes)
        loss_BHW = F.cross_entropy(logits_BCHW, self.targets_BHW, ignore_index=VOID, reduction="none")
        wrong_BHW = predicted_BHW != self.targets_BHW
        return {
            "intersection": (self.is_class_BCHW & is_predicted_BCHW).sum(dim=(2, 3)),
            "union": (self.is_class_BCHW | is_predicted_BCHW).sum(dim=(2, 3)),
            "loss": loss_BHW.double().sum(dim=(1, 2)),
            "pixels": self.is_valid_BHW.sum(dim=(1, 2)),
            "wrong": wrong_BHW.flatten(1).gather(1, self.sampled_BP),
        }


def compare_with_classes(classes_BHW: Tensor, num_classes: int) -> Tensor:
    """Return whether each pixel is of each class (B, C, H, W); `VOID` and larger numbers are of none."""
    return classes_BHW[:, None] == torch.arange(num_classes, device=classes_BHW.device)[:, None, None]


def average_cross_entropy(logits_BCHW: Tensor, targets_BHW: Tensor) -> Tensor:
    """Return the mean cross-entropy of the pixels that are not void, and 0 if all are.

    It equals that of `F.cross_entropy`. On a GPU, however, torch has no deterministic kernel for a mean over pixels,
    so trainer.deterministic=true would refuse it. The losses of single pixels have one.
    """
    loss_BHW = F.cross_entropy(logits_BCHW, targets_BHW, ignore_index=VOID, reduction="none")
    return loss_BHW.sum() / (targets_BHW != VOID).sum().clamp(min=1)


def sample_pixels(targets_BHW: Tensor) -> Tensor:
    """Return the indices of P pixels of each image that are not void (B, P), spread evenly over both axes.

    The golden ratio steps through the pixels in the order of rows. Equal steps would be a diagonal line if P divides
    the number of rows. An image that is void everywhere gives its first pixel, whose prediction then counts as wrong
    for every model.
    """
    rows = []
    for valid in (targets_BHW != VOID).flatten(1):
        indices = valid.nonzero()[:, 0] if valid.any() else torch.zeros(1, dtype=torch.int64, device=valid.device)
        steps = torch.arange(1, PIXELS_PER_IMAGE + 1, device=valid.device, dtype=torch.float64)
        chosen = (steps * GOLDEN_RATIO % 1 * len(indices)).long()
        rows.append(indices[chosen])
    return torch.stack(rows)


def measure_mean_iou(intersection_MNC: np.ndarray, union_MNC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean IoU of each model (M,), and the influence of each image on it (M, N).

    The IoU of a class divides its intersection over all images by its union over all images, as torchvision and VOC do.
    Classes that occur neither in a mask nor in a prediction of a model do not count for it. `Scores.influence_MN`
    explains the influence. To first order in the weights v of the images, Σ v i / Σ v u changes by (i − IoU · u) / Σ u.
    """
    unions_MC = union_MNC.sum(axis=1).astype(np.float64)
    occurs_MC = unions_MC > 0
    iou_MC = intersection_MNC.sum(axis=1) / np.where(occurs_MC, unions_MC, 1)
    share_MC = occurs_MC / np.maximum(occurs_MC.sum(axis=1, keepdims=True), 1)
    mean_iou_M = (share_MC * iou_MC).sum(axis=1)
    weight_MC = share_MC / np.where(occurs_MC, unions_MC, 1)
    change_MN = np.einsum("mnc,mc->mn", intersection_MNC - iou_MC[:, None] * union_MNC, weight_MC)
    return mean_iou_M, mean_iou_M[:, None] + change_MN.shape[1] * change_MN
