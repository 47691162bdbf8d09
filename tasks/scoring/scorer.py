"""The scores of many parameter vectors on one split; the frozen part of the network is computed once for all of them.

M models · N items · B items in one chunk · D numbers in one flattened subset.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from torch.utils.data import Dataset

from core.checkpoints.subset import ParameterSubset, unflatten
from core.evaluation.scores import Scores
from core.runtime.errors import UserError
from core.runtime.precision import set_float32_precision
from core.runtime.stage_progress import StageProgress
from core.runtime.trainer import pick_device
from tasks.data.loaders import Collate, count_images
from tasks.objectives.objective import MOST_ITEMS, Objective, add_model_axis
from tasks.scoring.frozen_prefix import split_network
from tasks.scoring.prefix_cache import CPU, Chunk, PrefixCache

log = logging.getLogger(__name__)
MODELS_AT_ONCE = 32  # models that are vectorized over 256 items; fewer for larger chunks
MODELS_COMPARED = 8  # models that are also run in fp32, to measure what a lower precision changes
PRECISIONS = ("fp32", "tf32", "bf16")


@dataclass(frozen=True)
class ScoringSpec:
    """The `scoring` section, and the machine.

    Args:
        batch_size: The largest B; "auto" is 256 on a CPU, and up to 2,048 on a GPU if images are small, because few
            small images do not use the whole GPU. It is smaller if networks hold many numbers for each item.
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


def choose_batch_size(images: Dataset, device: torch.device, limit: int = MOST_ITEMS) -> int:
    """Return the largest number of images in a chunk: 256 on a CPU, and up to 2,048 on a GPU if images are small.

    Args:
        images: The split; its first image stands for all of them.
        device: The device that computes.
        limit: The most images that the objective allows (`Objective.limit_batch`).
    """
    if device.type == "cpu":
        return min(256, limit)
    numbers_per_image = images[0][0].numel()
    return min(limit, MOST_ITEMS, max(256, MOST_ITEMS * 3 * 32**2 // numbers_per_image))


class Scorer:
    """A `ScoreFn` that scores vectors on one split.

    The frozen prefix of each chunk of items is computed once and kept for later calls if memory allows
    (`PrefixCache`). Chunks that do not fit are recomputed at each call, but still only once for all models of the call.
    The last chunk is padded to B items, because the traced graph has a fixed number of them; lists of images are not
    padded. With a lower precision than fp32, the first call logs the share of predictions that are the same as in fp32.

    Args:
        model: The network with its stored weights; moved to the device in eval mode, but not changed otherwise.
        subset: The parameters that the vectors hold.
        items: The split, of pairs (input, target).
        objective: What the predictions are compared with.
        normalize: The module that prepares each batch of inputs on the device; None for inputs that need none.
        options: The batch size, cache, precision and device; None for the defaults.
        label: The name of the split in log lines.
        collate: Makes a batch of items; None stacks them.
        groups_N: The group of each item, for items that are versions of each other; None if all are independent.
        progress: The progress of the stage, advanced by one unit for each item of each model; None shows nothing.
    """

    def __init__(
        self,
        model: nn.Module,
        subset: ParameterSubset,
        items: Dataset,
        *,
        objective: Objective,
        normalize: nn.Module | None = None,
        options: ScoringSpec | None = None,
        label: str = "score",
        collate: Collate | None = None,
        groups_N: np.ndarray | None = None,
        progress: StageProgress | None = None,
    ):
        options = options or ScoringSpec()
        device, precision, batch_size = options.device, options.precision, options.batch_size
        self.subset, self.device, self.precision, self.label = subset, device, precision, label
        self.objective, self.groups_N = objective, groups_N
        self.agreement: float | None = None  # share of predictions that are the same as in fp32
        self.normalize = (normalize or nn.Identity()).to(device)
        first, _ = collate([items[0]]) if collate else (items[0][0][None], None)
        if batch_size == "auto":
            batch_size = choose_batch_size(items, device, objective.limit_batch(items[0][0], device))
        largest = int(batch_size)
        self.progress = progress or StageProgress()
        self.num_images = num_items = count_images(items)
        num_chunks = -(-num_items // largest)
        self.batch_size = -(-num_items // num_chunks)  # chunks of equal size need the least padding
        # Items that need a function of their own to make a batch may differ in size from batch to batch.
        self.network = split_network(
            model.to(device).eval(), subset.names, self._prepare(first), any_size=collate is not None
        )
        self.chunks = PrefixCache(
            items,
            self.batch_size,
            self._compute_chunk,
            cache_bytes=options.cache_bytes,
            num_workers=options.num_workers,
            device=device,
            collate=collate,
        )

    def _to_device(self, part: Tensor) -> Tensor:
        return part.to(self.device, non_blocking=True)

    def _prepare(self, inputs_B: Any) -> Any:
        """Return the prepared inputs on the device, padded with zeros to `batch_size` items; a list is not padded."""
        inputs_B = self.normalize(tree_map_only(Tensor, self._to_device, inputs_B))
        if isinstance(inputs_B, list):
            return inputs_B
        missing = self.batch_size - len(inputs_B)
        return F.pad(inputs_B, (0, 0) * (inputs_B.dim() - 1) + (0, missing))

    def _compute_chunk(self, inputs_B: Any, targets_B: Any) -> Chunk:
        """Return the chunk of these items, by running the frozen prefix."""
        targets_B = tree_map_only(Tensor, self._to_device, targets_B)
        return Chunk(self.network.cache(self._prepare(inputs_B)), targets_B)

    def predict(
        self,
        crossing: tuple[Any, ...],
        vectors_MD: Tensor,
        num_items: int,
        *,
        exact: bool = False,
        progress: StageProgress | None = None,
    ) -> Iterator[tuple[slice, Any]]:
        """Yield the rows of some models at a time, and their predictions for one chunk, with shapes (models, B, …).

        Args:
            crossing: The tensors of the chunk that cross the cut.
            vectors_MD: The models.
            num_items: B, the number of items in the chunk without the padding.
            exact: Compute in fp32 whatever the configured precision is.
            progress: The progress of the stage, advanced by one unit for each model; None shows nothing.
        """

        def run_model(vector_D: Tensor) -> Any:
            parameters = unflatten(vector_D, self.subset)
            return self.objective.predict(lambda *inputs: self.network.run(inputs, parameters), *crossing)

        def trim(part_MB: Tensor) -> Tensor:
            if not isinstance(predictions, list):  # a list has no padding, and its tensors have no axis of items
                part_MB = part_MB[:, :num_items]
            return part_MB.float() if part_MB.is_floating_point() else part_MB

        models_at_once = max(1, MODELS_AT_ONCE * 256 // self.batch_size) if self.network.vectorizes else 1
        for start in range(0, len(vectors_MD), models_at_once):
            group = vectors_MD[start : start + models_at_once]
            with nullcontext() if exact else self._lower_precision():
                if self.network.vectorizes:
                    predictions = torch.vmap(run_model)(group)
                else:
                    predictions = add_model_axis(run_model(group[0]))
            predictions = tree_map_only(Tensor, trim, predictions)
            if progress is not None:
                progress.advance(len(group))
            yield slice(start, start + len(group)), predictions

    def _lower_precision(self) -> AbstractContextManager:
        """Return a context in which torch computes in the configured precision."""
        if self.precision == "tf32":
            return set_float32_precision(tf32=True)
        return torch.autocast(self.device.type, torch.bfloat16) if self.precision == "bf16" else nullcontext()

    def _compare_with_fp32(self, crossing: tuple[Any, ...], vectors_MD: Tensor, num_items: int) -> None:
        """Set and log `agreement`, measured on one chunk."""
        group = vectors_MD[:MODELS_COMPARED]
        pairs = zip(
            self.predict(crossing, group, num_items), self.predict(crossing, group, num_items, exact=True), strict=True
        )
        shares = [
            self.objective.measure_agreement(lowered, exact) * (rows.stop - rows.start)
            for (rows, lowered), (_, exact) in pairs
        ]
        self.agreement = sum(shares) / len(group)
        log.info(
            "%s: scoring in %s; %.2f%% of %d predictions are the same as in fp32",
            self.label,
            self.precision,
            100 * self.agreement,
            len(group) * num_items,
        )

    @torch.inference_mode()
    @set_float32_precision()
    def __call__(self, vectors_MD: Tensor, temperature_P: np.ndarray | None = None) -> Scores:
        """Return the scores of M vectors, and of their votes if the objective defines votes.

        Args:
            vectors_MD: The models.
            temperature_P: The temperatures of the votes; None fits them to these items.

        Raises:
            UserError: The vectors do not have D numbers.
        """
        vectors_MD, first_call = vectors_MD.to(self.device), not self.chunks.summary
        counter = self.objective.count_scores(len(vectors_MD), self.device, temperature_P)
        with self.progress.part(len(vectors_MD) * self.num_images, units=len(vectors_MD) * len(self.chunks)):
            for number, chunk in enumerate(self.chunks):
                num_items = min(self.batch_size, self.num_images - number * self.batch_size)
                if self.precision != "fp32" and self.agreement is None:
                    self._compare_with_fp32(chunk.crossing, vectors_MD, num_items)
                predictions = self.predict(chunk.crossing, vectors_MD, num_items, progress=self.progress)
                counter.add(predictions, chunk.targets)
        if first_call:
            log.info("%s: %s", self.label, self.chunks.summary)
        scores = counter.finish()
        return scores if self.groups_N is None else replace(scores, groups_N=self.groups_N)
