"""Margins: the part of each model and of each image in the mean of a source, from which bootstrap draws are made.

M models · K originals · N images · G groups of images.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import uniform_filter1d

from core.evaluation.metrics import Compare, compare_iou, compare_relative_kappa, divide, find_most_alike
from core.evaluation.resampling import ENTRIES, Groups
from core.evaluation.scores import MAX_IOU, Metric, Scores


@dataclass(frozen=True)
class Margins:
    """Row and column means of values y (M, N), one value for each model on each image."""

    models_M: np.ndarray  # mean over images
    groups_G: np.ndarray  # sum of ȳ_n − ȳ over each group; empty if only the models' means are known
    model_share: float  # share in [0, 1] of the variance of `models_M` that is due to the models


def measure_margins(
    models_M: np.ndarray, read: Callable[[np.ndarray], np.ndarray], groups: Groups, block_length: int = 1
) -> Margins:
    """Measure the margins of values y (M, N), which are read some columns at a time to bound memory.

    A part of the variance of the models' means comes from the images on which each model happens to fail, and is no
    difference between models. It is the residual of a two-way analysis of variance without replication: the sum over
    groups of the squared interaction, divided by N². The rest is the model share. Models resampled in blocks are
    compared by the means of blocks, because chance errors can outlast differences in quality along a walk, or fade
    before them.

    Args:
        models_M: Mean of each model over the images.
        read: Function from indices of images to the values of all models on them, (M, number of indices).
        groups: Groups in which the images are resampled.
        block_length: Number of consecutive models that are resampled together.
    """
    parts, residual = [], 0.0
    for part in groups.split(ENTRIES // len(models_M)):
        centered_MN = read(part.order_N) - models_M[:, None]
        centered_MG = Groups(np.arange(len(part.order_N)), part.ends_G).sum(centered_MN)
        parts.append(centered_MG.mean(axis=0))
        residual += float((average_blocks(centered_MG - parts[-1], block_length) ** 2).sum())
    # The factor makes the variance over G groups unbiased, like G − 1 in its denominator.
    by_chance = residual / len(groups.order_N) ** 2 * len(groups) / max(len(groups) - 1, 1)
    spread = float((average_blocks(models_M - models_M.mean(), block_length) ** 2).sum())
    share = float(np.clip(1 - by_chance / spread, 0, 1)) if spread else 1.0
    return Margins(models_M, np.concatenate(parts), share)


def average_blocks(values: np.ndarray, block_length: int) -> np.ndarray:
    """Return the mean over each circular block of consecutive rows, in the shape of the values."""
    return values if block_length == 1 else uniform_filter1d(values, block_length, axis=0, mode="wrap")


def measure_accuracy_margins(scores: Scores, groups: Groups, block_length: int = 1) -> Margins:
    """Return the margins of the influence of each item on the primary metric (`Scores.influence_MN`).

    For accuracy it is 1 if the model is right on the item, else 0. Without groups, the margins are those of the models
    alone.

    Raises:
        ValueError: There are groups, but the influence is unknown.
    """
    if not len(groups):
        return Margins(scores.accuracy_M, np.empty(0), 1.0)
    models_M = scores.accuracy_M
    if scores.influence_MN is None:
        models_M = 1 - scores.require_wrong().mean(axis=1)
    return measure_margins(models_M, scores.read_influence, groups, block_length)


@dataclass(frozen=True)
class Pairs:
    """The numbers of wrong images of each model and of its most similar original."""

    similarity_M: np.ndarray  # float64
    model_M: np.ndarray
    nearest_M: np.ndarray
    both_M: np.ndarray
    num_images: int


@dataclass(frozen=True)
class Similarity:
    """A measure of how alike the errors of two models are, of which a model has its largest one over the originals."""

    metric: Metric
    compare: Compare
    # The function maps pairs, and the masks (M, n) of n images for the models and for their most similar originals, to
    # N times the change of each similarity when an image counts once more, (M, n).
    differentiate: Callable[[Pairs, np.ndarray, np.ndarray], np.ndarray]


def differentiate_iou(pairs: Pairs, wrong: np.ndarray, nearest: np.ndarray) -> np.ndarray:
    """Return N times the change of the IoU (`Similarity.differentiate`).

    To first order in the weights v of the images, IoU = Σ v both / Σ v either changes by (both − IoU · either) / Σ
    either.
    """
    either_M = pairs.model_M + pairs.nearest_M - pairs.both_M
    change = (wrong & nearest) - pairs.similarity_M[:, None] * (wrong | nearest)
    return change * (pairs.num_images / np.maximum(either_M, 1))[:, None]


def differentiate_relative_kappa(pairs: Pairs, wrong: np.ndarray, nearest: np.ndarray) -> np.ndarray:
    """Return N times the change of κ over its largest value (`Similarity.differentiate`).

    The weighted error rates a of the model, b of the original and c of both change by (wrong − a) / N, (nearest − b) /
    N and (both − c) / N. Hence N times the change of κ = (c − ab) / (min(a, b) − ab) is

        (both − κ fewer − (1 − κ) (b wrong + a nearest − ab)) / (min(a, b) − ab),

    where `fewer` is the mask of the one of the two that errs less, which is the model if both err equally often. Where
    the denominator is 0, one of the two has no errors or errs everywhere. No weights change this, nor its similarity.
    """
    n, kappa_M1 = pairs.num_images, pairs.similarity_M[:, None]
    a_M1, b_M1 = pairs.model_M[:, None] / n, pairs.nearest_M[:, None] / n
    # The denominator times N² is a whole number, so that 0 is recognized exactly.
    largest_M = n * np.minimum(pairs.model_M, pairs.nearest_M) - pairs.model_M * pairs.nearest_M
    scale_M = divide(np.full(len(largest_M), float(n**2)), largest_M, np.zeros(len(largest_M)))
    fewer = np.where(a_M1 <= b_M1, wrong, nearest)
    by_chance = b_M1 * wrong + a_M1 * nearest - a_M1 * b_M1
    return ((wrong & nearest) - kappa_M1 * fewer - (1 - kappa_M1) * by_chance) * scale_M[:, None]


IOU = Similarity(MAX_IOU, compare_iou, differentiate_iou)
RELATIVE_KAPPA = Similarity(
    Metric("max_kappa_relative", "share of the largest possible error consistency", higher_is_better=False),
    compare_relative_kappa,
    differentiate_relative_kappa,
)


def measure_similarity_margins(
    wrong_MN: np.ndarray,
    reference_KN: np.ndarray,
    groups: Groups,
    *,
    similarity: Similarity,
    block_length: int = 1,
    apart_MK: np.ndarray | None = None,
) -> Margins:
    """Return the margins of the influence of each image on the largest similarity of each model to an original.

    The value for a model and an image is the largest similarity of the model plus N times its change when this image is
    drawn once more, to first order. The most similar original stays fixed, so the spread is overestimated if several
    originals are about equally similar. `apart_MK` is explained in `find_most_alike`.
    """
    largest_M, nearest_M = find_most_alike(wrong_MN, reference_KN, apart_MK, similarity.compare)
    both = (wrong_N & reference_KN[nearest] for wrong_N, nearest in zip(wrong_MN, nearest_M, strict=True))
    pairs = Pairs(
        similarity_M=largest_M.astype(np.float64),
        model_M=np.count_nonzero(wrong_MN, axis=1),
        nearest_M=np.count_nonzero(reference_KN, axis=1)[nearest_M],
        both_M=np.array([np.count_nonzero(both_N) for both_N in both]),
        num_images=wrong_MN.shape[1],
    )

    def read(images: np.ndarray) -> np.ndarray:
        nearest = reference_KN[np.ix_(nearest_M, images)]
        return pairs.similarity_M[:, None] + similarity.differentiate(pairs, wrong_MN[:, images], nearest)

    return measure_margins(pairs.similarity_M, read, groups, block_length)
