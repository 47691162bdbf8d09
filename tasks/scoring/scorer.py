"""Accuracy, loss and wrong images of many parameter vectors, with the shared part of the network computed once.

M models · N images · B images in one chunk · D numbers in one flattened subset.
"""

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchmetrics.functional.classification import binary_calibration_error

from core.checkpoints.subset import ParameterSubset, unflatten
from core.evaluation.scores import Scores, Vote
from core.runtime.errors import UserError
from core.runtime.precision import float32_products
from core.runtime.stage_progress import StageProgress
from core.runtime.trainer import pick_device
from tasks.data.loaders import count_images
from tasks.scoring.frozen_prefix import split_network
from tasks.scoring.prefix_cache import CPU, Chunk, PrefixCache

log = logging.getLogger(__name__)
MODELS_AT_ONCE = 32  # where the network vectorizes over models, at 256 images
MODELS_COMPARED = 8  # with fp32, to tell what a lower precision costs
PRECISIONS = ("fp32", "tf32", "bf16")


@dataclass
class Tally:
    """What is known of each image after one chunk, for M models."""

    loss_MB: Tensor
    wrong_MB: Tensor  # bool
    confidence_MB: Tensor  # of the predicted class

    @classmethod
    def of(cls, log_probabilities_MBC: Tensor, labels_B: Tensor) -> "Tally":
        """Build from the log-probabilities of every class."""
        confidence_MB, predicted_MB = log_probabilities_MBC.max(dim=2)
        labels_MB1 = labels_B[None, :, None].expand(len(log_probabilities_MBC), -1, 1)
        return cls(-log_probabilities_MBC.gather(2, labels_MB1)[:, :, 0], predicted_MB != labels_B, confidence_MB.exp())

    @classmethod
    def joined(cls, chunks: Sequence["Tally"]) -> "Tally":
        """Join the chunks of a split, on the CPU."""
        return cls(*(torch.cat([getattr(chunk, field.name) for chunk in chunks], dim=1).cpu() for field in fields(cls)))

    @property
    def accuracy_M(self) -> np.ndarray:
        """Share of right predictions."""
        return (~self.wrong_MB.numpy()).mean(axis=1)

    @property
    def nll_M(self) -> np.ndarray:
        """Mean negative log-likelihood of the labels."""
        return self.loss_MB.double().mean(dim=1).numpy()

    @property
    def ece_M(self) -> np.ndarray:
        """Expected calibration error, 15 bins.  Guo et al. 2017, Eq. 3."""
        pairs = zip(self.confidence_MB.clamp(0, 1), ~self.wrong_MB, strict=True)
        return np.array(
            [binary_calibration_error(confidence, right.int(), n_bins=15).item() for confidence, right in pairs]
        )


@dataclass(frozen=True)
class ScoringSpec:
    """The `scoring` section, and the machine.

    Args:
        batch_size: B is at most this; "auto" is 256 on a CPU, and more on a GPU, where small images fill few of its
            units.
        cache_bytes: see `PrefixCache`.
        precision: "fp32", or on a GPU "tf32" or "bf16" for what depends on the generated parameters. CPUs are slower
            with less, or cannot do it at all.
        num_workers: processes that read images, or "auto".
        device: computes.

    Raises:
        UserError: the precision is unknown, or lower than fp32 on a CPU.
    """

    batch_size: int | str = "auto"
    cache_bytes: float | str = "auto"
    precision: str = "fp32"
    num_workers: int | str = 0
    device: torch.device = CPU

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise UserError(f"scoring.precision={self.precision}: expected one of {', '.join(PRECISIONS)}")
        if self.precision != "fp32" and self.device.type == "cpu":
            raise UserError(f"scoring.precision={self.precision} needs a GPU; set scoring.precision=fp32")

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, num_workers: int | str, accelerator: str) -> "ScoringSpec":
        """Build from the plain values of the `scoring` section, `task.data.num_workers` and `trainer.accelerator`."""
        return cls(**config, num_workers=num_workers, device=pick_device(accelerator))


def images_at_once(images: Dataset, device: torch.device) -> int:
    """Return the number of images in a chunk: 256, and on a GPU up to 2,048 where they are small."""
    if device.type == "cpu":
        return 256
    numbers = images[0][0].numel()
    return min(2048, max(256, 2048 * 3 * 32**2 // numbers))


class Scorer:
    """Scores vectors on one split; calling it is a `ScoreFn`.

    The frozen prefix of each chunk of images is computed once and kept for later calls as far as memory reaches
    (`PrefixCache`); beyond that it is computed anew at each call, still once for all models of the call.

    Args:
        model: the classifier with its stored weights, in eval mode; never altered.
        subset: the parameters that vectors are of.
        images: the split.
        normalize: applied to each batch of images on the device.
        options: the last chunk is padded to B images, since the traced graph has one size; with a lower precision the
            first call says on how many images the predictions are those of fp32.
        label: Names the split in log lines.
        progress: The progress of the stage; a call counts one unit for each image of each model. None shows nothing.
    """

    def __init__(
        self,
        model: nn.Module,
        subset: ParameterSubset,
        images: Dataset,
        *,
        normalize: nn.Module | None = None,
        options: ScoringSpec | None = None,
        label: str = "score",
        progress: StageProgress | None = None,
    ):
        options = options or ScoringSpec()
        device, precision, batch_size = options.device, options.precision, options.batch_size
        self.subset, self.device, self.precision, self.label = subset, device, precision, label
        self.agreement: float | None = None  # share of predictions that are those of fp32
        self.normalize = (normalize or nn.Identity()).to(device)
        most = images_at_once(images, device) if batch_size == "auto" else int(batch_size)
        self.progress = progress or StageProgress()
        self.num_images = num_images = count_images(images)
        self.batch_size = -(-num_images // -(-num_images // most))  # even chunks: padding is computed, too
        self.network = split_network(model.to(device).eval(), subset.names, self._padded(images[0][0][None]))
        self.chunks = PrefixCache(
            images,
            self.batch_size,
            self._chunk,
            cache_bytes=options.cache_bytes,
            num_workers=options.num_workers,
            device=device,
        )

    def _padded(self, images_BCSS: Tensor) -> Tensor:
        """Return the images, normalized, on the device, with zeros up to `batch_size`."""
        images_BCSS = self.normalize(images_BCSS.to(self.device, non_blocking=True))
        missing = self.batch_size - len(images_BCSS)
        return F.pad(images_BCSS, (0, 0) * (images_BCSS.dim() - 1) + (0, missing))

    def _chunk(self, images_BCSS: Tensor, labels_B: Tensor) -> Chunk:
        """Run the frozen prefix."""
        return Chunk(self.network.cache(self._padded(images_BCSS)), labels_B.to(self.device, non_blocking=True))

    def logits(self, crossing: tuple[Any, ...], vectors_MD: Tensor, progress: StageProgress | None = None) -> Tensor:
        """Return logits (M, B, classes) for one chunk."""

        def of_one(vector_D: Tensor) -> Tensor:
            return self.network.logits(crossing, unflatten(vector_D, self.subset))

        found, together = [], max(1, MODELS_AT_ONCE * 256 // self.batch_size)  # larger chunks of images, fewer models
        for group in vectors_MD.split(together if self.network.vectorizes else 1):
            found.append(torch.vmap(of_one)(group) if self.network.vectorizes else of_one(group[0])[None])
            if progress is not None:
                progress.advance(len(group))
        return torch.cat(found).float()

    def _lowered(self) -> AbstractContextManager:
        """Return a context with the configured precision."""
        if self.precision == "tf32":
            return float32_products(tf32=True)
        return torch.autocast(self.device.type, torch.bfloat16) if self.precision == "bf16" else nullcontext()

    def _compare_with_fp32(self, crossing: tuple[Any, ...], vectors_MD: Tensor, num_images: int) -> None:
        """Set `agreement`, and say it."""
        with self._lowered():
            lowered_MB = self.logits(crossing, vectors_MD[:MODELS_COMPARED])[:, :num_images].argmax(dim=2)
        exact_MB = self.logits(crossing, vectors_MD[:MODELS_COMPARED])[:, :num_images].argmax(dim=2)
        self.agreement = (lowered_MB == exact_MB).double().mean().item()
        log.info(
            "%s in %s: %.2f %% of %d predictions are those of fp32",
            self.label,
            self.precision,
            100 * self.agreement,
            exact_MB.numel(),
        )

    @torch.inference_mode()
    @float32_products()
    def __call__(self, vectors_MD: Tensor) -> Scores:
        """Return the scores of M vectors; raises `UserError` if they do not have D numbers."""
        vectors_MD, first_call = vectors_MD.to(self.device), not self.chunks.summary
        tallies, votes = [], []
        with self.progress.part(len(vectors_MD) * self.num_images, units=len(vectors_MD) * len(self.chunks)):
            for chunk in self.chunks:
                num_images = len(chunk.labels_B)
                if self.precision != "fp32" and self.agreement is None:
                    self._compare_with_fp32(chunk.crossing, vectors_MD, num_images)
                with self._lowered():
                    log_MBC = self.logits(chunk.crossing, vectors_MD, self.progress)[:, :num_images].log_softmax(dim=2)
                tallies.append(Tally.of(log_MBC, chunk.labels_B))
                votes.append(Tally.of(log_MBC.exp().mean(dim=0, keepdim=True).log(), chunk.labels_B))
        if first_call:
            log.info("%s: %s", self.label, self.chunks.summary)
        every, vote = Tally.joined(tallies), Tally.joined(votes)
        together = Vote(float(vote.accuracy_M[0]), float(vote.nll_M[0]), float(vote.ece_M[0]))
        return Scores(every.accuracy_M, every.nll_M, every.wrong_MB.numpy(), every.ece_M, together)
