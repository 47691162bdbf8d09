"""What a checkpoints file is about: the stored classifier and its images, ready to score vectors."""

from dataclasses import dataclass, replace

import torch
from torch import nn

from core.checkpoints.checkpoint_set import CheckpointSet
from core.checkpoints.subset import ParameterSubset
from core.runtime.errors import UserError
from core.runtime.stage_progress import StageProgress
from tasks.data.datasets import load_images
from tasks.data.splits import ImageData, fixed_sample
from tasks.networks.build import build_for, load_network, weights_colors
from tasks.scoring.scorer import Scorer, ScoringSpec
from tasks.specification import TaskSpec
from tasks.user_code import call_user_task


def open_network_and_images(task: TaskSpec) -> tuple[nn.Module, ImageData]:
    """Return an untrained network and the images: what `task.score_with` returns, or a network over a dataset."""
    if task.score_with:
        return call_user_task(task.score_with)
    data = open_images(task)
    return build_for(data.facts, task.model), data


def open_images(task: TaskSpec) -> ImageData:
    """Return the images of `task.data`, normalized as pretrained weights want them where `task.model` has such."""
    weights = weights_colors(task.model.name) if task.model.pretrained else None
    return load_images(replace(task.data, weights=weights))


@dataclass(frozen=True)
class Task:
    """The stored classifier and its images, checked to be those that the checkpoints were made with."""

    data: ImageData
    model: nn.Module
    subset: ParameterSubset
    scoring: ScoringSpec

    @classmethod
    def restore(cls, spec: TaskSpec, scoring: ScoringSpec, checkpoints: CheckpointSet) -> "Task":
        """Open the images and put the stored weights into the network.

        Raises:
            UserError: the images are not those that the checkpoints were scored on, or the network does not fit.
        """
        network, data = open_network_and_images(spec)
        if data.fingerprint() != checkpoints.provenance["data_fingerprint"]:
            if spec.score_with:
                holder, option = f"what {spec.score_with} returns", "task.score_with"
            else:
                holder, option = f"{spec.data.dataset} in {spec.data.root}", "task.data.root"
            raise UserError(
                f"{holder} does not hold the images that {checkpoints.path} was made with; give {option}= of those"
            )
        model = load_network(network, checkpoints.network, str(checkpoints.path))
        return cls(data, model, checkpoints.subset, scoring=scoring)

    @property
    def device(self) -> torch.device:
        """The device that scores and fine-tunes."""
        return self.scoring.device

    def score_fns(self, num_train_images: int, progress: StageProgress | None = None) -> dict[str, Scorer]:
        """Return a `Scorer` for each split; "train" is a fixed sample of the training images, only to choose by."""
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
                options=self.scoring,
                progress=progress,
            )
            for name, images in splits.items()
        }
