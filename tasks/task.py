"""What a checkpoints file is about: the stored classifier and its images, ready to score vectors."""

from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from core.checkpoints.checkpoint_set import CheckpointSet
from core.checkpoints.subset import ParameterSubset
from core.evaluation.scores import ScoreFn
from core.runtime.errors import UserError
from core.runtime.trainer import pick_device
from tasks.data.datasets import load_images
from tasks.data.splits import DataOptions, ImageData, fixed_sample
from tasks.networks.build import build_classifier, load_network, weights_colors
from tasks.scoring.scorer import Scorer
from tasks.user_code import user_task


def network_and_images(task: DictConfig) -> tuple[nn.Module, ImageData]:
    """The network as it is built, and the images: what the user's own `task.score_with` returns, or a network over a dataset."""
    if task.score_with:
        return user_task(task.score_with)
    data = images(task)
    return build_classifier(**task.model, **data.facts), data


def images(task: DictConfig) -> ImageData:
    """The images of `task.data`, normalized as pretrained weights want them where `task.model` starts from such."""
    weights = weights_colors(task.model.name) if task.model.pretrained else None
    return load_images(DataOptions(**OmegaConf.to_container(task.data, resolve=True), weights=weights))


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
        network, data = network_and_images(cfg.task)
        if data.fingerprint() != checkpoints.provenance["data_fingerprint"]:
            holder = (
                f"what {cfg.task.score_with} returns"
                if cfg.task.score_with
                else f"{cfg.task.data.dataset} in {cfg.task.data.root}"
            )
            option = "task.score_with" if cfg.task.score_with else "task.data.root"
            raise UserError(
                f"{holder} does not hold the images that {checkpoints.path} was made with; give {option}= of those"
            )
        model = load_network(network, checkpoints.network, str(checkpoints.path))
        device = pick_device(cfg.trainer.accelerator)
        return cls(
            data,
            model,
            checkpoints.subset,
            device,
            {**cfg.scoring, "num_workers": cfg.task.data.num_workers, "device": device},
        )

    def score_fns(self, num_train_images: int) -> dict[str, ScoreFn]:
        """A `ScoreFn` for each split; "train" is a fixed sample of the training images, which only serves to choose by."""
        splits = {
            "train": fixed_sample(self.data.train, num_train_images),
            "val": self.data.val,
            "test": self.data.test,
        }
        return {
            name: Scorer(
                self.model,
                self.subset,
                images,
                normalize=self.data.make_normalizer(),
                label=f"{name} images",
                **self.options,
            )
            for name, images in splits.items()
        }
