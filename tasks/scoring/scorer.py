"""Accuracy, loss and wrongly classified images of many parameter vectors; the frozen part is computed once.

M models · N images · B images in one chunk · D numbers in one flattened subset.
"""

import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from core.checkpoints.subset import ParameterSubset, unflatten
from core.evaluation.scores import Scores
from core.runtime.errors import UserError
from core.runtime.precision import set_float32_precision
from core.runtime.stage_progress import StageProgress
from core.runtime.trainer import pick_device
from tasks.data.loaders import count_images
from tasks.scoring.frozen_prefix import split_network
from tasks.scoring.prefix_cache import CPU, Chunk, PrefixCache
from tasks.scoring.tally import Tally
from tasks.scoring.votes import VoteCounter

log = logging.getLogger(__name__)
MODELS_AT_ONCE = 32  # models that are vectorized over 256 images; fewer for larger chunks
MODELS_COMPARED = 8  # models that are also run in fp32, to measure what a lower precision changes
PRECISIONS = ("fp32", "tf32", "bf16")


@dataclass(frozen=True)
class ScoringSpec:
    """The `scoring` section, and the machine.

    Args:
        batch_size: The largest B; "auto" is 256 on a CPU, and up to 2,048 on a GPU if images are small, because few
            small images do not use the whole GPU.
        cache_bytes: The largest number of bytes to cache for one split, or "auto" (see `PrefixCache`).
        precision: The precision of the part that depends on the generated parameters: "fp32", or on a GPU also "tf32"
            or "bf16". On a CPU, lower precisions are slower or not available.
        num_workers: The number of processes that read images, or "auto".
        device: The device that computes.

    Raises:
        UserError: The precision is unknown, or lower than fp32 on a CPU.
    """

    batch_size: int | str = "auto"
    cache_bytes: float | str = "auto"
    precision: str = "fp32"
    num_workers: int | str = 0
    device: torch.device = CPU

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise UserError(
                f"scoring.precision={self.precision} is invalid: expected one of {', '.join(PRECISIONS)}. "
                "Set scoring.precision=fp32"
            )
        if self.precision != "fp32" and self.device.type == "cpu":
            raise UserError(f"scoring.precision={self.precision} needs a GPU. Set scoring.precision=fp32")

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, num_workers: int | str, accelerator: str) -> "ScoringSpec":
        """Build the specification from the `scoring` section, `task.data.num_workers` and `trainer.accelerator`."""
        return cls(**config, num_workers=num_workers, device=pick_device(accelerator))


def choose_batch_size(images: Dataset, device: torch.device) -> int:
    """Return the largest number of images in a chunk: 256 on a CPU, and up to 2,048 on a GPU if images are small."""
    if device.type == "cpu":
        return 256
    numbers_per_image = images[0][0].numel()
    return min(2048, max(256, 2048 * 3 * 32**2 // numbers_per_image))


class Scorer:
    """A `ScoreFn` that scores vectors on one split.

    The frozen prefix of each chunk of images is computed once and kept for later calls if memory allows
    (`PrefixCache`). Chunks that do not fit are recomputed at each call, but still only once for all models of the call.
    The last chunk is padded to B images, because the traced graph has a fixed size. With a lower precision than fp32,
    the first call logs the share of predictions that are the same as in fp32.

    Args:
        model: The classifier with its stored weights; moved to the device in eval mode, but not changed otherwise.
        subset: The parameters that the vectors hold.
        images: The split.
        normalize: The module that normalizes each batch of images on the device; None for images that need none.
        options: The batch size, cache, precision and device; None for the defaults.
        label: The name of the split in log lines.
        groups_N: The group of each image, for images that are versions of each other; None if all are independent.
        progress: The progress of the stage, advanced by one unit for each image of each model; None shows nothing.
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
        groups_N: np.ndarray | None = None,
        progress: StageProgress | None = None,
    ):
        options = options or ScoringSpec()
        device, precision, batch_size = options.device, options.precision, options.batch_size
        self.subset, self.device, self.precision, self.label = subset, device, precision, label
        self.groups_N = groups_N
        self.agreement: float | None = None  # share of predictions that are the same as in fp32
        self.normalize = (normalize or nn.Identity()).to(device)
        largest = choose_batch_size(images, device) if batch_size == "auto" else int(batch_size)
        self.progress = progress or StageProgress()
        self.num_images = num_images = count_images(images)
        num_chunks = -(-num_images // largest)
        self.batch_size = -(-num_images // num_chunks)  # chunks of equal size need the least padding
        self.network = split_network(model.to(device).eval(), subset.names, self._prepare(images[0][0][None]))
        self.chunks = PrefixCache(
            images,
            self.batch_size,
            self._compute_chunk,
            cache_bytes=options.cache_bytes,
            num_workers=options.num_workers,
            device=device,
        )

    def _prepare(self, images_BCSS: Tensor) -> Tensor:
        """Return the normalized images on the device, padded with zeros to `batch_size` images."""
        images_BCSS = self.normalize(images_BCSS.to(self.device, non_blocking=True))
        missing = self.batch_size - len(images_BCSS)
        return F.pad(images_BCSS, (0, 0) * (images_BCSS.dim() - 1) + (0, missing))

    def _compute_chunk(self, images_BCSS: Tensor, labels_B: Tensor) -> Chunk:
        """Return the chunk of these images, by running the frozen prefix."""
        return Chunk(self.network.cache(self._prepare(images_BCSS)), labels_B.to(self.device, non_blocking=True))

    def logits(self, crossing: tuple[Any, ...], vectors_MD: Tensor, progress: StageProgress | None = None) -> Tensor:
        """Return logits (M, B, classes) for one chunk.

        Args:
            crossing: The tensors of the chunk that cross the cut.
            vectors_MD: The models.
            progress: The progress of the stage, advanced by one unit for each model; None shows nothing.
        """

        def run_model(vector_D: Tensor) -> Tensor:
            return self.network.logits(crossing, unflatten(vector_D, self.subset))

        logits, models_at_once = [], max(1, MODELS_AT_ONCE * 256 // self.batch_size)
        for group in vectors_MD.split(models_at_once if self.network.vectorizes else 1):
            logits.append(torch.vmap(run_model)(group) if self.network.vectorizes else run_model(group[0])[None])
            if progress is not None:
                progress.advance(len(group))
        return torch.cat(logits).float()

    def _lower_precision(self) -> AbstractContextManager:
        """Return a context in which torch computes in the configured precision."""
        if self.precision == "tf32":
            return set_float32_precision(tf32=True)
        return torch.autocast(self.device.type, torch.bfloat16) if self.precision == "bf16" else nullcontext()

    def _compare_with_fp32(self, crossing: tuple[Any, ...], vectors_MD: Tensor, num_images: int) -> None:
        """Set and log `agreement`, measured on one chunk."""
        with self._lower_precision():
            lowered_MB = self.logits(crossing, vectors_MD[:MODELS_COMPARED])[:, :num_images].argmax(dim=2)
        exact_MB = self.logits(crossing, vectors_MD[:MODELS_COMPARED])[:, :num_images].argmax(dim=2)
        self.agreement = (lowered_MB == exact_MB).double().mean().item()
        log.info(
            "%s: scoring in %s; %.2f%% of %d predictions are the same as in fp32",
            self.label,
            self.precision,
            100 * self.agreement,
            exact_MB.numel(),
        )

    @torch.inference_mode()
    @set_float32_precision()
    def __call__(self, vectors_MD: Tensor, temperature_P: np.ndarray | None = None) -> Scores:
        """Return the scores of M vectors and of their votes; the vote of one vector is its own prediction.

        Args:
            vectors_MD: The models.
            temperature_P: The temperatures of the votes; None fits them to these images.

        Raises:
            UserError: The vectors do not have D numbers.
        """
        vectors_MD, first_call = vectors_MD.to(self.device), not self.chunks.summary
        tallies = []
        votes = VoteCounter(len(vectors_MD), self.device, temperature_P)
        with self.progress.part(len(vectors_MD) * self.num_images, units=len(vectors_MD) * len(self.chunks)):
            for chunk in self.chunks:
                num_images = len(chunk.labels_B)
                if self.precision != "fp32" and self.agreement is None:
                    self._compare_with_fp32(chunk.crossing, vectors_MD, num_images)
                with self._lower_precision():
                    log_MBC = self.logits(chunk.crossing, vectors_MD, self.progress)[:, :num_images].log_softmax(dim=2)
                tallies.append(Tally.from_log_probabilities(log_MBC, chunk.labels_B))
                votes.add(log_MBC, chunk.labels_B)
        if first_call:
            log.info("%s: %s", self.label, self.chunks.summary)
        models = Tally.join(tallies)
        return Scores(
            models.accuracy_M,
            models.nll_M,
            models.wrong_MB.numpy(),
            models.ece_M,
            votes.finish(),
            loss_MN=models.loss_MB.half().numpy(),
            groups_N=self.groups_N,
        )
