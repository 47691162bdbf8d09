"""Accuracy, loss and wrong images of many parameter vectors, with the shared part of the network computed once.

M models · N images · B images in one chunk · D numbers in one flattened subset.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from core.checkpoints.checkpoint_set import CheckpointSet
from core.checkpoints.subset import ParameterSubset, unflatten
from core.evaluation.scores import ScoreFn, Scores
from core.runtime.errors import UserError
from core.runtime.trainer import pick_device
from tasks.data.datasets import load_images
from tasks.data.splits import DataOptions
from tasks.frozen_prefix import SplitNetwork, split_network
from tasks.models import build_classifier, load_network


def build_score_fns(cfg: DictConfig, checkpoints: CheckpointSet) -> dict[str, ScoreFn]:
    """A `ScoreFn` for validation and one for test: the stored network over the configured images.

    Raises:
        UserError: the images are not those that the checkpoints were scored on, or the network does not fit.
    """
    data = load_images(DataOptions(**cfg.task.data))
    if data.fingerprint() != checkpoints.provenance["data_fingerprint"]:
        raise UserError(f"{cfg.task.data.dataset} in {cfg.task.data.root} does not hold the images that {checkpoints.path} was made with; give task.data.root= of those")
    model = load_network(build_classifier(**cfg.task.model, **data.facts), checkpoints.network, str(checkpoints.path))
    options = {**cfg.scoring, "num_workers": cfg.task.data.num_workers, "device": pick_device(cfg.trainer.accelerator)}
    return {split: Scorer(model, checkpoints.subset, data.split(split), label=f"{split} images", **options) for split in ("val", "test")}


class Scorer:
    """Scores vectors on one split; calling it is a `ScoreFn`.

    The frozen prefix of each chunk of images is computed once and kept for later calls while it fits into
    `cache_bytes`; beyond that it is computed anew at each call, still once for all models of the call.

    Args:
        model: the classifier with its stored weights, in eval mode; never altered.
        images: the split.
        batch_size: B; the last chunk is padded to it, since the traced graph has one size.
        use_prefix: False runs the whole network for every model, to check that the results are the same.
    """

    def __init__(
        self,
        model: nn.Module,
        subset: ParameterSubset,
        images: Dataset,
        *,
        batch_size: int = 256,
        num_workers: int = 0,
        cache_bytes: float = 2e9,
        device: torch.device = torch.device("cpu"),
        use_prefix: bool = True,
        label: str = "score",
    ):
        self.model, self.subset, self.device, self.label = model.to(device).eval(), subset, device, label
        self.loader = DataLoader(images, batch_size, num_workers=num_workers)
        self.batch_size, self.cache_bytes = batch_size, cache_bytes
        self.network = self._split() if use_prefix else None
        self._kept: list[tuple[tuple[Any, ...], Tensor]] | None = None

    def _split(self) -> SplitNetwork | None:
        images_BCSS, _ = next(iter(self.loader))
        return split_network(self.model, self.subset.names, self._padded(images_BCSS))

    def _padded(self, images_BCSS: Tensor) -> Tensor:
        missing = self.batch_size - len(images_BCSS)
        return F.pad(images_BCSS, (0, 0, 0, 0, 0, 0, 0, missing)).to(self.device)

    def _chunks(self) -> Iterator[tuple[tuple[Any, ...], Tensor]]:
        """What crosses the cut (or the images themselves) and the labels, chunk by chunk."""
        if self._kept is not None:
            yield from self._kept
            return
        kept, room = [], self.cache_bytes
        for images_BCSS, labels_B in self.loader:
            inputs = self._padded(images_BCSS)
            crossing = (inputs,) if self.network is None else self.network.cache(inputs)
            chunk = crossing, labels_B.to(self.device)
            room -= sum(tensor.nbytes for tensor in crossing if isinstance(tensor, Tensor))
            if room >= 0:
                kept.append(chunk)
            yield chunk
        self._kept = kept if room >= 0 else None

    def _logits(self, crossing: tuple[Any, ...], parameters: dict[str, Tensor]) -> Tensor:
        if self.network is None:
            return torch.func.functional_call(self.model, parameters, crossing)
        return self.network.logits(crossing, parameters)

    @torch.inference_mode()
    def __call__(self, vectors_MD: Tensor) -> Scores:
        """Scores of M vectors; raises `UserError` if they do not have D numbers."""
        models = [unflatten(vector_D, self.subset) for vector_D in vectors_MD.to(self.device)]
        losses, wrong = [], []
        with tqdm(total=len(models) * len(self.loader), desc=self.label, dynamic_ncols=True, mininterval=0.5, leave=False) as bar:
            for crossing, labels_B in self._chunks():
                count = len(labels_B)
                logits = (self._logits(crossing, parameters)[:count].float() for parameters in models)
                pairs = [self._score_chunk(logits_BC, labels_B, bar) for logits_BC in logits]
                losses.append(torch.stack([loss for loss, _ in pairs]).double().cpu())
                wrong.append(torch.stack([wrong_B for _, wrong_B in pairs]).cpu())
        wrong_MN = torch.cat(wrong, dim=1)
        loss_M = torch.stack(losses).sum(dim=0) / wrong_MN.shape[1]
        return Scores((~wrong_MN.numpy()).mean(axis=1), loss_M.numpy(), wrong_MN.numpy())

    @staticmethod
    def _score_chunk(logits_BC: Tensor, labels_B: Tensor, bar: tqdm) -> tuple[Tensor, Tensor]:
        bar.update()
        return F.cross_entropy(logits_BC, labels_B, reduction="sum"), logits_BC.argmax(dim=1) != labels_B
