"""Detection of objects: the losses of torchvision's detectors, COCO's average precision, and errors on single objects.

M models · N images · B images in one batch · C classes · d detections · g objects of one image · I items
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from core.evaluation.scores import Metric, Scores
from tasks.objectives.average_precision import average_precision, measure_change
from tasks.objectives.box_matching import Matches, get_crowds, match_boxes, unpack_bits
from tasks.objectives.objective import Network, Objective, ScoreCounter

AVERAGE_PRECISION = Metric("AP", "mean average precision at IoU 0.50:0.95", higher_is_better=True, in_percent=True)
MOST_NUMBERS = 8 * 3 * 480 * 640  # numbers in the images at once, which detectors enlarge and pad
AP50 = slice(1)  # the first of the ten thresholds
SURE = 0.5  # the score from which a box counts when two precisions are compared

Boxes = Mapping[str, Any]  # the detections or the objects of one image


@dataclass(frozen=True)
class Detection(Objective):
    """Each image shows any number of objects of C − 1 classes; class 0 is the background.

    Networks take a list of images (3, H, W), and with a list of targets they return a dictionary of losses. Without
    targets they return a list of dictionaries, as torchvision's detectors do: `boxes` (d, 4) as corners in pixels,
    `scores` (d,) and `labels` (d,). Targets have `boxes` (g, 4) and `labels` (g,), and perhaps `iscrowd` (g,).
    """

    num_classes: int
    metric = AVERAGE_PRECISION

    def compute_loss(self, network: Network, inputs: Sequence[Tensor], targets: Sequence[Boxes]) -> Tensor:
        """Return the sum of the network's losses."""
        losses = network(inputs, [{name: target[name] for name in ("boxes", "labels")} for target in targets])
        return torch.stack(list(losses.values())).sum()

    def count_scores(
        self, num_models: int, device: torch.device, temperature_P: np.ndarray | None = None
    ) -> "DetectionCounter":
        """Return a counter of matched boxes; there are no votes."""
        return DetectionCounter(num_models, self.num_classes)

    def limit_batch(self, inputs: Tensor, device: torch.device) -> int:
        """Return the number of images (3, H, W) that fit into memory, at most 256."""
        return max(1, min(256, MOST_NUMBERS // inputs.numel()))

    def measure_agreement(self, predictions: Sequence[Boxes], exact: Sequence[Boxes]) -> float:
        """Return the share of images on which both find boxes of the same classes with a score of at least 0.5."""
        sure = [
            [image["labels"][image["scores"] >= SURE].sort().values for image in images]
            for images in (predictions, exact)
        ]
        return float(np.mean([torch.equal(*labels) for labels in zip(*sure, strict=True)]))


class DetectionCounter(ScoreCounter):
    """The matches of M detectors, from which the scores of any sample of the images follow.

    A detection takes 14 bytes. For the errors, the best boxes of a model count, as many as there are objects. Like the
    AP, they depend only on the order of the scores, so a model that is less sure of the same boxes has the same errors.
    The errors of an image are one for each object, which is wrong if no box that counts finds it at IoU 0.5, and one
    for each class, which is wrong if a box of this class that counts is false. Crowds are no objects.

    Args:
        num_models: M.
        num_classes: C.
    """

    def __init__(self, num_models: int, num_classes: int):
        self.num_classes = num_classes
        self.matches: list[list[Matches]] = [[] for _ in range(num_models)]
        # For each image, the score with which each object is found, and the highest score of a false box of each class.
        self.found: list[list[np.ndarray]] = [[] for _ in range(num_models)]
        self.false: list[list[np.ndarray]] = [[] for _ in range(num_models)]
        self.objects: list[np.ndarray] = []  # for each image, the number of objects of each class (C,)

    def add(self, predictions: Iterable[tuple[slice, Sequence[Boxes]]], targets: Sequence[Boxes]) -> None:
        """Add the detections of all models, whose tensors begin with an axis of models, and the targets."""
        targets = tree_map_only(Tensor, lambda part: part.cpu(), targets)
        singles = [get_single_classes(target) for target in targets]
        first = len(self.objects)
        for rows, group in predictions:
            for offset, model in enumerate(range(rows.start, rows.stop)):
                images = [{name: part[offset] for name, part in image.items()} for image in group]
                for index, (image, target) in enumerate(zip(images, targets, strict=True)):
                    self._add_image(model, image, target, index=first + index)
        self.objects += [np.bincount(single_g, minlength=self.num_classes) for single_g in singles]

    def _add_image(self, model: int, prediction: Boxes, target: Boxes, *, index: int) -> None:
        """Add the detections of one model on one image."""
        matches, found_g = match_boxes(prediction, target, index)
        is_false_d = ~unpack_bits(matches.hit_d | matches.ignored_d)[0]
        false_C = np.zeros(self.num_classes, dtype=np.float32)
        np.maximum.at(false_C, matches.class_d[is_false_d], matches.score_d[is_false_d])
        self.matches[model].append(matches)
        self.found[model].append(found_g[~get_crowds(target)])
        self.false[model].append(false_C[1:])

    def finish(self) -> Scores:
        """Return the scores, in which the loss is 1 − AP50, because detectors compute losses while they train only."""
        objects_NC = np.stack(self.objects)
        joined = [Matches.join(parts) for parts in self.matches]
        metric_M, ap50_M = (
            np.array([average_precision(matches, objects_NC, thresholds=part) for matches in joined])
            for part in (slice(None), AP50)
        )
        change_MN = np.stack([measure_change(matches, objects_NC) for matches in joined])
        items_N = objects_NC.sum(axis=1) + self.num_classes - 1
        # The items of an image share its influence equally, so that their sum is that of the image.
        scale_N = items_N.sum() / items_N
        influence_MN = metric_M[:, None] + change_MN * scale_N
        return Scores(
            metric_M,
            1 - ap50_M,
            np.stack(
                [self._find_errors(model, matches, int(objects_NC.sum())) for model, matches in enumerate(joined)]
            ),
            metric=AVERAGE_PRECISION,
            groups_N=np.repeat(np.arange(len(items_N)), items_N),
            influence_MN=np.repeat(influence_MN, items_N, axis=1).astype(np.float32),
        )

    def _find_errors(self, model: int, matches: Matches, num_objects: int) -> np.ndarray:
        """Return the errors of a model (I,), from as many of its best boxes as there are objects."""
        scores_d = np.sort(matches.score_d[~unpack_bits(matches.ignored_d)[0]])[::-1]
        counted = min(num_objects, len(scores_d))
        # Objects that are not found have the score 0, which the threshold must not admit.
        threshold = max(scores_d[counted - 1], np.finfo(np.float32).tiny) if counted else np.inf
        return np.concatenate(
            [
                part
                for found_g, false_C in zip(self.found[model], self.false[model], strict=True)
                for part in (found_g < threshold, false_C >= threshold)
            ]
        )


def get_single_classes(target: Boxes) -> np.ndarray:
    """Return the class of each object of an image that is no crowd."""
    return target["labels"].cpu().numpy()[~get_crowds(target)]
