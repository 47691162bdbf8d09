"""COCO's average precision from matched boxes, on images of any weights, and the influence of each image on it.

N images · C classes · d detections, of one class in the order of falling score · T = 10 thresholds of IoU
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tasks.objectives.box_matching import THRESHOLDS_T, Matches, unpack_bits
from tasks.objectives.rare_classes import place_rare_classes

RECALLS = np.linspace(0, 1, 101)  # at which COCO averages the precision


@dataclass(frozen=True)
class Curve:
    """The precision of one class after each detection."""

    image_d: np.ndarray
    hit_Td: np.ndarray  # bool
    false_Td: np.ndarray  # bool
    true_Td: np.ndarray  # weight of the right detections so far
    positive_Td: np.ndarray  # weight of all counted detections so far
    envelope_Td: np.ndarray  # highest precision from this detection on
    peak_Td: np.ndarray  # index of the detection that has this precision
    total: float  # weight of the objects

    def average(self) -> np.ndarray:
        """Return the average precision at each threshold (T,)."""
        padded_Td = np.pad(self.envelope_Td, ((0, 0), (0, 1)))  # recalls that are never reached have precision 0
        recall_Td = self.true_Td / self.total
        pairs = zip(padded_Td, recall_Td, strict=True)
        return np.array([padded_d[np.searchsorted(recall_d, RECALLS)].mean() for padded_d, recall_d in pairs])


def trace_curves(matches: Matches, objects_NC: np.ndarray, weights_N: np.ndarray) -> Iterator[tuple[int, Curve]]:
    """Yield each class that has objects, and its curve.

    Args:
        matches: The detections of one model.
        objects_NC: The numbers of objects of each class on each image, without crowds.
        weights_N: How often each image counts.
    """
    order = np.lexsort((-matches.score_d, matches.class_d))  # stable, so equal scores keep the order of the images
    classes_d = matches.class_d[order]
    for index, total in enumerate(weights_N @ objects_NC):
        if total <= 0:
            continue
        rows = order[slice(*np.searchsorted(classes_d, [index, index + 1]))]
        hit_Td, image_d = unpack_bits(matches.hit_d[rows]), matches.image_d[rows]
        false_Td = ~hit_Td & ~unpack_bits(matches.ignored_d[rows])
        true_Td = (weights_N[image_d] * hit_Td).cumsum(axis=1)
        positive_Td = true_Td + (weights_N[image_d] * false_Td).cumsum(axis=1)
        precision_Td = true_Td / (positive_Td + np.spacing(1))
        from_end_Td = precision_Td[:, ::-1]
        highest_Td = np.maximum.accumulate(from_end_Td, axis=1)
        position_Td = np.where(from_end_Td == highest_Td, np.arange(len(rows)), 0)
        peak_Td = len(rows) - 1 - np.maximum.accumulate(position_Td, axis=1)[:, ::-1]
        yield index, Curve(image_d, hit_Td, false_Td, true_Td, positive_Td, highest_Td[:, ::-1], peak_Td, total)


def average_precision(
    matches: Matches, objects_NC: np.ndarray, weights_N: np.ndarray | None = None, thresholds: slice = slice(None)
) -> float:
    """Return the mean of the average precision over the classes with objects and over thresholds; 0 without objects.

    Whole weights give the value of a set in which each image occurs as often as its weight says. It is exact if all
    detections of one image have different scores.

    Args:
        matches: The detections of one model.
        objects_NC: The numbers of objects of each class on each image, without crowds.
        weights_N: How often each image counts; None counts each of them once.
        thresholds: The thresholds of IoU to average over; slice(1) gives AP50.
    """
    weights_N = np.ones(len(objects_NC)) if weights_N is None else weights_N
    values = [curve.average()[thresholds].mean() for _, curve in trace_curves(matches, objects_NC, weights_N)]
    return float(np.mean(values)) if values else 0.0


def measure_change(matches: Matches, objects_NC: np.ndarray) -> np.ndarray:
    """Return the change of the average precision (N,) when an image is drawn once more, to first order.

    COCO averages the precision at 101 recalls. Its value jumps where a detection passes one of these recalls, so it is
    replaced by the area under the same curve, AP = Σ_k v_k E_k / G, over the right detections k. v are the weights of
    the images, G = Σ v g is the number of objects, and E_k = R_j / S_j is the highest precision from k on, which
    detection j reaches with R_j right ones among S_j. With j fixed,

        dAP/dv_n = Σ_{k on n} E_k / G − AP g_n / G + Σ_k (v_k / G) (r_nj − E_k s_nj) / S_j.

    AP depends on the ratios of the weights alone, so the changes sum to 0. `place_rare_classes` is added for classes on
    few images.
    """
    num_images = len(objects_NC)
    area_C = np.zeros(objects_NC.shape[1])
    change_N, num_classes = np.zeros(num_images), 0
    for index, curve in trace_curves(matches, objects_NC, np.ones(num_images)):
        num_classes += 1
        gain_Td = curve.hit_Td * curve.envelope_Td / curve.total
        area_C[index] = gain_Td.sum()
        change_N -= area_C[index] / curve.total * objects_NC[:, index]
        if not len(curve.image_d):
            continue
        counts_Td = np.stack(
            [
                np.bincount(peak_d, hit_d, minlength=len(peak_d))
                for peak_d, hit_d in zip(curve.peak_Td, curve.hit_Td, strict=True)
            ]
        )
        share_Td = counts_Td / (curve.total * np.maximum(curve.positive_Td, 1))
        # A detection changes the precision of every peak at or after it.
        of_right_Td, of_false_Td = (
            (share_Td * factor_Td)[:, ::-1].cumsum(axis=1)[:, ::-1]
            for factor_Td in (1 - curve.envelope_Td, curve.envelope_Td)
        )
        of_detection_d = (curve.hit_Td * of_right_Td - curve.false_Td * of_false_Td + gain_Td).sum(axis=0)
        change_N += np.bincount(curve.image_d, of_detection_d, minlength=num_images)
    change_N += place_rare_classes(area_C[None], objects_NC > 0)[0]
    return change_N / (max(num_classes, 1) * len(THRESHOLDS_T))
