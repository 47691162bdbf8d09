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
        losses = {name: F.cross_entropy(logits, targets, ignore_index=VOID) for name, logits in heads.items()}
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
        sampled_BP = sample_pixels(targets)
        groups = [self._compare(logits_BCHW, targets, sampled_BP) for _, group in predictions for logits_BCHW in group]
        self.batches.append({name: np.stack([one[name] for one in groups]) for name in groups[0]})

    def _compare(self, logits_BCHW: Tensor, targets_BHW: Tensor, sampled_BP: Tensor) -> dict[str, np.ndarray]:
        """Return what the scores need of one model on one batch. A NaN predicts no class, so it counts as wrong."""
        predicted_BHW = logits_BCHW.argmax(dim=1).masked_fill(logits_BCHW.isnan().any(dim=1), self.num_classes)
        valid_BHW = targets_BHW != VOID
        of_target_BC, of_predicted_BC, common_BC = (
            self._count_classes(classes_BHW, counted_BHW)
            for classes_BHW, counted_BHW in (
                (targets_BHW, valid_BHW),
                (predicted_BHW, valid_BHW),
                (targets_BHW, valid_BHW & (predicted_BHW == targets_BHW)),
            )
        )
        loss_BHW = F.cross_entropy(logits_BCHW, targets_BHW, ignore_index=VOID, reduction="none")
        wrong_BHW = predicted_BHW != targets_BHW
        parts = {
            "intersection": common_BC,
            "union": of_target_BC + of_predicted_BC - common_BC,
            "loss": loss_BHW.double().sum(dim=(1, 2)),
            "pixels": valid_BHW.sum(dim=(1, 2)),
            "wrong": wrong_BHW.flatten(1).gather(1, sampled_BP),
        }
        return {name: part.cpu().numpy() for name, part in parts.items()}

    def _count_classes(self, classes_BHW: Tensor, counted_BHW: Tensor) -> Tensor:
        """Return the number of counted pixels of each class on each image (B, C)."""
        bins = self.num_classes + 1  # the last one is for pixels that are predicted as no class
        image_BHW = torch.arange(len(classes_BHW), device=classes_BHW.device)[:, None, None].expand_as(classes_BHW)
        index = (bins * image_BHW + classes_BHW)[counted_BHW]
        return torch.bincount(index, minlength=bins * len(classes_BHW)).view(-1, bins)[:, :-1]

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


def sample_pixels(targets_BHW: Tensor) -> Tensor:
    """Return the indices of P pixels of each image that are not void (B, P), spread evenly over the image.

    An image that is void everywhere gives its first pixel, whose prediction then counts as wrong for every model.
    """
    rows = []
    for valid in (targets_BHW != VOID).flatten(1):
        indices = valid.nonzero()[:, 0] if valid.any() else torch.zeros(1, dtype=torch.int64, device=valid.device)
        chosen = torch.linspace(0, len(indices) - 1, PIXELS_PER_IMAGE, device=valid.device).round().long()
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
