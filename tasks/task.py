"""The stored classifier of a checkpoints file together with its images, ready to score vectors."""

from dataclasses import dataclass, replace

import torch
from torch import nn

from core.checkpoints.checkpoint_set import CheckpointSet
from core.checkpoints.subset import ParameterSubset
from core.runtime.errors import UserError
from core.runtime.stage_progress import StageProgress
from tasks.data.datasets import load_images
from tasks.data.splits import ImageData, draw_fixed_sample
from tasks.networks.build import build_from_spec, get_pretrained_colors, load_network
from tasks.scoring.scorer import Scorer, ScoringSpec
from tasks.specification import TaskSpec
from tasks.user_code import call_user_task


def open_network_and_images(task: TaskSpec) -> tuple[nn.Module, ImageData]:
    """Return a network with new weights, and the images: from `task.score_with` if set, else from model and data."""
    if task.score_with:
        return call_user_task(task.score_with)
    data = open_images(task)
    return build_from_spec(data.facts, task.model), data


def open_images(task: TaskSpec) -> ImageData:
    """Return the images of `task.data`; pretrained weights of `task.model` decide their default normalization."""
    weights = get_pretrained_colors(task.model.name) if task.model.pretrained else None
    return load_images(replace(task.data, weights=weights))


@dataclass(frozen=True)
class Task:
    """The stored classifier and the images that its checkpoints were made with."""

    data: ImageData
    model: nn.Module
    subset: ParameterSubset
    scoring: ScoringSpec

    @classmethod
    def restore(cls, spec: TaskSpec, scoring: ScoringSpec, checkpoints: CheckpointSet) -> "Task":
        """Open the images and load the stored weights into the network.

        Args:
            spec: The network, and the options that say where its images are.
            scoring: How to score, and on which device.
            checkpoints: The stored weights, and the fingerprint of the images.

        Raises:
            UserError: The images are not the ones that the checkpoints were scored on, or the weights do not fit the
                network.
        """
        network, data = open_network_and_images(spec)
        if data.fingerprint() != checkpoints.provenance["data_fingerprint"]:
            if spec.score_with:
                images = f"that task.score_with={spec.score_with} returns"
                fix = "Set task.score_with to a function that returns the checkpoints' images"
            else:
                images = f"of {spec.data.dataset} in task.data.root={spec.data.root}"
                fix = "Set task.data.root to the folder of the images, or task.param.path to another checkpoints file"
            raise UserError(f"the images {images} are not the ones that {checkpoints.path} was made with. {fix}")
        model = load_network(network, checkpoints.network, str(checkpoints.path))
        return cls(data, model, checkpoints.subset, scoring=scoring)

    @property
    def device(self) -> torch.device:
        """The device that scores and fine-tunes."""
        return self.scoring.device

    def score_fns(self, num_train_images: int, progress: StageProgress | None = None) -> dict[str, Scorer]:
        """Return a `Scorer` for each split.

        Args:
            num_train_images: The size of "train", a fixed sample of the training images that serves to choose models.
            progress: The progress of the stage that scores; None shows nothing.
        """
        splits = {
            "train": draw_fixed_sample(self.data.train, num_train_images),
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
