"""What a checkpoints file is about: the stored classifier and its images, ready to score vectors."""

from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from core.checkpoints.checkpoint_set import CheckpointSet
from core.checkpoints.subset import ParameterSubset
from core.evaluation.scores import ScoreFn
from core.runtime.errors import UserError
from core.runtime.trainer import pick_device
from tasks.data.datasets import load_images
from tasks.data.splits import DataOptions, ImageData, fixed_sample
from tasks.models import build_classifier, load_network
from tasks.scoring import Scorer


@dataclass(frozen=True)
class Task:
    """The stored classifier and its images, checked to be those that the checkpoints were made with."""

    data: ImageData
    model: nn.Module
    subset: ParameterSubset
    device: torch.device
    options: dict[str, Any]  # of `Scorer`

    @classmethod
    def of(cls, cfg: DictConfig, checkpoints: CheckpointSet) -> "Task":
        """Build from the configuration.

        Raises:
            UserError: the images are others than those that the checkpoints were scored on, or the network does not fit.
        """
        data = load_images(DataOptions(**cfg.task.data))
        if data.fingerprint() != checkpoints.provenance["data_fingerprint"]:
            raise UserError(
                f"{cfg.task.data.dataset} in {cfg.task.data.root} does not hold the images that {checkpoints.path} was made with; give task.data.root= of those"
            )
        model = load_network(build_classifier(**cfg.task.model, **data.facts), checkpoints.network, str(checkpoints.path))
        device = pick_device(cfg.trainer.accelerator)
        return cls(data, model, checkpoints.subset, device, {**cfg.scoring, "num_workers": cfg.task.data.num_workers, "device": device})

    def score_fns(self, num_train_images: int) -> dict[str, ScoreFn]:
        """A `ScoreFn` for each split; "train" is a fixed sample of the training images, which only serves to choose by."""
        splits = {"train": fixed_sample(self.data.train, num_train_images), "val": self.data.val, "test": self.data.test}
        return {name: Scorer(self.model, self.subset, images, label=f"{name} images", **self.options) for name, images in splits.items()}
