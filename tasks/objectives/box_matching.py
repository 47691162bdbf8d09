"""The matching of detected boxes to objects, as COCO's evaluation does it, at ten overlaps at once.

N images · d detections · g objects · T = 10 thresholds of IoU
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from torch import Tensor

THRESHOLDS_T = np.linspace(0.5, 0.95, 10)
BITS_T = 1 << np.arange(len(THRESHOLDS_T), dtype=np.uint16)
MOST_DETECTIONS = 100  # of one class on one image; further ones do not count


@dataclass(frozen=True)
class Matches:
    """The detections of one model on some images, and all that the average precision needs of the objects.

    The detections are sorted by image, and within an image by falling score. Bit t of a mask belongs to threshold t.
    """

    image_d: np.ndarray  # int32: index of the image
    class_d: np.ndarray  # int16
    score_d: np.ndarray  # float32
    hit_d: np.ndarray  # uint16: thresholds at which the box matches an object
    ignored_d: np.ndarray  # uint16: thresholds at which the box counts neither as right nor as false

    @classmethod
    def join(cls, parts: Sequence["Matches"]) -> "Matches":
        """Return the detections of several batches as one."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))


def unpack_bits(mask_d: np.ndarray) -> np.ndarray:
    """Return a bit mask as booleans (T, d)."""
    return (mask_d & BITS_T[:, None]) > 0


def match_boxes(prediction: Mapping[str, Tensor], target: Mapping[str, Any], image: int) -> tuple[Matches, np.ndarray]:
    """Return the matches on one image, and for each object the score with which it is found at IoU 0.5 (g,).

    The score of an object that is not found is 0. Detections choose in the order of their scores. Each one takes the
    object of its class with the highest IoU that no other detection has taken. A crowd may be taken several times, and
    only by a detection that fits no single object; the detection is then ignored.

    Args:
        prediction: `boxes` (d, 4) as corners in pixels, `scores` (d,) and `labels` (d,). A NaN score is no detection.
        target: `boxes` (g, 4), `labels` (g,) and perhaps `iscrowd` (g,).
        image: The index of the image.
    """
    boxes_d4, scores_d, labels_d = (prediction[name].detach().cpu().numpy() for name in ("boxes", "scores", "labels"))
    kept = select_detections(scores_d, labels_d)
    boxes_d4, scores_d, labels_d = boxes_d4[kept], scores_d[kept], labels_d[kept]
    objects_g4, classes_g = (target[name].cpu().numpy() for name in ("boxes", "labels"))
    crowd_g = get_crowds(target)
    iou_dg = measure_overlaps(boxes_d4, objects_g4, crowd_g)
    iou_dg[labels_d[:, None] != classes_g] = 0
    num_thresholds = len(THRESHOLDS_T)
    hit_dT, ignored_dT = (np.zeros((len(kept), num_thresholds), dtype=bool) for _ in range(2))
    taken_Tg = np.zeros((num_thresholds, len(classes_g)), dtype=bool)
    found_g = np.zeros(len(classes_g), dtype=np.float32)
    for detection in np.flatnonzero((iou_dg >= THRESHOLDS_T[0]).any(axis=1)):
        allowed_Tg = (iou_dg[detection] >= THRESHOLDS_T[:, None]) & (~taken_Tg | crowd_g)
        # Single objects go before crowds. Of equal overlaps, COCO's evaluation takes the last one.
        rank_Tg = np.where(allowed_Tg, iou_dg[detection] + 2.0 * ~crowd_g, -1)[:, ::-1]
        chosen_T = len(classes_g) - 1 - rank_Tg.argmax(axis=1)
        matched = np.flatnonzero(allowed_Tg.any(axis=1))
        taken_Tg[matched, chosen_T[matched]] = True
        is_crowd = crowd_g[chosen_T[matched]]
        hit_dT[detection, matched], ignored_dT[detection, matched] = ~is_crowd, is_crowd
        if len(matched) and matched[0] == 0:
            found_g[chosen_T[0]] = max(found_g[chosen_T[0]], scores_d[detection])
    masks = ((part_dT * BITS_T).sum(axis=1).astype(np.uint16) for part_dT in (hit_dT, ignored_dT))
    image_d = np.full(len(kept), image, dtype=np.int32)
    return Matches(image_d, labels_d.astype(np.int16), scores_d.astype(np.float32), *masks), found_g


def get_crowds(target: Mapping[str, Any]) -> np.ndarray:
    """Return whether each object of an image is a crowd (g,)."""
    if "iscrowd" not in target:
        return np.zeros(len(target["labels"]), dtype=bool)
    return target["iscrowd"].cpu().numpy() > 0


def select_detections(scores_d: np.ndarray, labels_d: np.ndarray) -> np.ndarray:
    """Return the indices of the detections that count, by falling score: the best ones of each class."""
    order = np.argsort(-scores_d, kind="stable")
    order = order[~np.isnan(scores_d[order])]
    if len(order) <= MOST_DETECTIONS:
        return order
    same_dd = np.tril(labels_d[order, None] == labels_d[order], k=-1)
    return order[same_dd.sum(axis=1) < MOST_DETECTIONS]


def measure_overlaps(boxes_d4: np.ndarray, objects_g4: np.ndarray, crowd_g: np.ndarray) -> np.ndarray:
    """Return the IoU of each detection and each object (d, g); of a crowd the share of the detection inside of it."""
    boxes_d14, objects_g4 = boxes_d4[:, None].astype(np.float64), objects_g4.astype(np.float64)
    sides_dg2 = np.minimum(boxes_d14[..., 2:], objects_g4[:, 2:]) - np.maximum(boxes_d14[..., :2], objects_g4[:, :2])
    common_dg = sides_dg2.clip(min=0).prod(axis=-1)
    of_box_d1, of_object_g = (
        (corners[..., 2:] - corners[..., :2]).prod(axis=-1) for corners in (boxes_d14, objects_g4)
    )
    union_dg = np.where(crowd_g, of_box_d1, of_box_d1 + of_object_g - common_dg)
    return common_dg / np.where(union_dg > 0, union_dg, 1)
