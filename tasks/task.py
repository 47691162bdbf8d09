"""The stored network of a checkpoints file together with its images, ready to score vectors."""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate

from core.checkpoints.checkpoint_set import CheckpointSet
from core.checkpoints.subset import ParameterSubset
from core.checkpoints.symmetry import PermutationSymmetry
from core.runtime.content_hash import hash_array
from core.runtime.errors import UserError
from core.runtime.source_code import digest_code, locate
from core.runtime.stage_progress import StageProgress
from tasks.data import digits
from tasks.data.datasets import load_images
from tasks.data.other_datasets import add_other_datasets
from tasks.data.splits import SPLITS, TaskData, draw_fixed_sample
from tasks.networks import mini_networks
from tasks.networks.adapters import add_adapters
from tasks.networks.build import (
    build_from_spec,
    find_builder,
    get_pretrained_colors,
    load_network,
    require_family,
)
from tasks.networks.symmetry import find_symmetry
from tasks.scoring.scorer import Scorer, ScoringSpec
from tasks.specification import TaskSpec
from tasks.user_code import call_user_task, digest_user_code

log = logging.getLogger(__name__)
# The source code that prepares the images and scores vectors, besides that of the network itself.
SCORING_CODE = (
    "core/checkpoints/subset.py",
    "core/evaluation/calibration.py",
    "core/runtime/precision.py",
    "core/runtime/seeding.py",
    "tasks/data/coco.py",
    "tasks/data/coco_annotations.py",
    "tasks/data/digit_scenes.py",
    "tasks/data/digits.py",
    "tasks/data/feature_networks.py",
    "tasks/data/image_folder.py",
    "tasks/data/loaders.py",
    "tasks/data/noisy_images.py",
    "tasks/data/other_datasets.py",
    "tasks/data/out_of_distribution.py",
    "tasks/data/scene_drawing.py",
    "tasks/data/scenes.py",
    "tasks/data/splits.py",
    "tasks/data/torchvision_sets.py",
    "tasks/data/voc.py",
    "tasks/objectives/*.py",
    "tasks/scoring/*.py",
)


OWN = "own"  # the dataset of task=own, which is what the user's function returns


def check_own_task(task: TaskSpec, overrides: Sequence[str]) -> None:
    """Check that one source of network and data is named: the user's function, or a network and a dataset.

    Args:
        task: The task of the configuration.
        overrides: The overrides on the command line.

    Raises:
        UserError: `task=own` lacks the function, or the function stands beside another network or dataset.
    """
    if task.data.dataset == OWN and not task.score_with:
        raise UserError(
            "task=own needs your own network and data. Set task.score_with=my_task:task for the function task() in "
            "my_task.py"
        )
    if not task.score_with:
        return
    if task.data.dataset != OWN:
        raise UserError(
            f"task.score_with={task.score_with} returns a network and its data, but task.data.dataset="
            f"{task.data.dataset} names other data. Set task=own, or remove one of them"
        )
    refuse_without_effect(task.score_with, overrides)


def refuse_without_effect(score_with: str, overrides: Sequence[str]) -> None:
    """Check that no override of the network or the data stands beside the user's function, which decides both.

    Raises:
        UserError: An override would have no effect.
    """
    names = {word: word.partition("=")[0].lstrip("+").replace("/", ".") for word in overrides}
    refused = [word for word, name in names.items() if re.match(r"task\.(model\b|data\.(?!num_workers))", name)]
    if refused:
        raise UserError(
            f"task.score_with={score_with} returns a network and its data, so {refused[0]} would have no effect. "
            f"Remove {refused[0]}"
        )


def open_network_and_images(task: TaskSpec) -> tuple[nn.Module, TaskData]:
    """Return a network with new weights, and the images: from `task.score_with` if set, else from model and data."""
    if task.score_with:
        return call_user_task(task.score_with)
    data = open_images(task)
    return build_from_spec(data.facts, task.model), data


def build_network(task: TaskSpec, data: TaskData) -> nn.Module:
    """Return a network with new weights for data that is already open."""
    return call_user_task(task.score_with)[0] if task.score_with else build_from_spec(data.facts, task.model)


def open_images(task: TaskSpec) -> TaskData:
    """Return the data of `task.score_with` if set, else the images of `task.data`.

    Pretrained weights of `task.model` decide the default normalization of images.

    Raises:
        UserError: The images are missing, or `task.model` is not a network for their task.
    """
    if task.score_with:
        return call_user_task(task.score_with)[1]
    weights = get_pretrained_colors(task.model.name) if task.model.pretrained else None
    data = load_images(replace(task.data, weights=weights))
    require_family(task.model.name, data.objective, task.data.dataset)
    return data


def require_images(spec: TaskSpec, data: TaskData, checkpoints: CheckpointSet) -> None:
    """Check that the images are the ones that the checkpoints were made with.

    Raises:
        UserError: An image or a label of a split differs.
    """
    if not (others := data.find_other_splits(checkpoints.provenance)):
        return
    names = " and ".join(others) if len(others) < len(SPLITS) else ", ".join(others)
    if spec.score_with:
        images = f"the {names} {data.noun} that task.score_with={spec.score_with} returns"
        fix = f"Set task.score_with to a function that returns the checkpoints' {data.noun}"
    else:
        images = f"the {names} images of {spec.data.dataset} in task.data.root={spec.data.root}"
        fix = "Set task.data.root to the folder of the images that it was made with"
    differ = f"{images} are not the ones that {checkpoints.path} was made with"
    if spec.data.dataset == "digits" and not spec.score_with:  # they come with scikit-learn, so no folder holds them
        raise UserError(f"{differ}. {digits.HOW_TO_RENEW}")
    raise UserError(
        f"{differ}: an image or a label was changed, added or removed. {fix}, or task.param.path=FILE to another "
        "checkpoints file"
    )


def record_scoring(spec: TaskSpec, data: TaskData, precision: str) -> dict[str, Any]:
    """Return the settings that decide the scores of given vectors, and the digests of the images."""
    settings = spec.record()["task"]
    return {
        "images": data.digests,
        "ood": data.ood_digests,
        "groups": {name: hash_array(groups_N) for name, groups_N in data.groups.items()},
        "preparation": data.preparation,
        "precision": precision,
        "task": {"data": settings["data"], "model": settings["model"], "score_with": spec.score_with},
    }


def digest_scoring_code(spec: TaskSpec) -> dict[str, str]:
    """Return the digests of the source code that decides the scores of given vectors, by name.

    They cover the module of the user's own network or images, but no modules that it imports.
    """
    if spec.score_with:
        return {**digest_code(SCORING_CODE), **digest_user_code(spec.score_with)}
    if ":" in spec.model.name:
        return {**digest_code(SCORING_CODE), **digest_user_code(spec.model.name)}
    network = [locate(find_builder(spec.model.name)), *([locate(add_adapters)] if spec.model.lora else [])]
    if own := getattr(mini_networks, spec.model.name, None):
        network.append(locate(own))
    return digest_code([*SCORING_CODE, *network])


@dataclass(frozen=True)
class Task:
    """The stored network and the images that its checkpoints were made with."""

    data: TaskData
    model: nn.Module
    subset: ParameterSubset
    scoring: ScoringSpec

    @classmethod
    def restore(
        cls, spec: TaskSpec, scoring: ScoringSpec, checkpoints: CheckpointSet, ood: Sequence[str] | str = ()
    ) -> "Task":
        """Open the images and load the stored weights into the network.

        Args:
            spec: The network, and the options that say where its images are.
            scoring: How to score, and on which device.
            checkpoints: The stored weights, and the fingerprint of the images.
            ood: The other datasets whose images belong to no class, as `evaluation.ood` names them.

        Raises:
            UserError: The images are not the ones that the checkpoints were scored on, the weights do not fit the
                network, or a dataset of `ood` cannot be used.
        """
        network, data = open_network_and_images(spec)
        data = add_other_datasets(data, spec.data, ood)
        require_images(spec, data, checkpoints)
        model = load_network(network, checkpoints.network, str(checkpoints.path))
        return cls(data, model, checkpoints.subset, scoring=scoring)

    @property
    def device(self) -> torch.device:
        """The device that scores and fine-tunes."""
        return self.scoring.device

    def find_symmetry(self) -> PermutationSymmetry | None:
        """Return the groups of hidden units whose order does not change the network's outputs.

        Networks for lists of images, such as detectors, depend on the number and the sizes of the images. They are not
        traced, so none of their units are matched, and the log says it. Return None for low-rank updates, because
        distances between products do not depend on the order of the factors' units.
        """
        if self.subset.updates:
            return None
        inputs, _ = (self.data.collate or default_collate)([self.data.val[0]])
        if not isinstance(inputs, Tensor):
            kind = type(inputs).__name__
            log.warning(
                "Hidden units are not matched: this network takes a %s, and only those for one tensor are traced", kind
            )
            return PermutationSymmetry.within(self.subset, ())
        inputs = self.data.make_normalizer()(inputs)
        return find_symmetry(self.model, self.subset, inputs.to(next(self.model.parameters()).device))

    def score_fns(self, num_train_images: int, progress: StageProgress | None = None) -> dict[str, Scorer]:
        """Return a `Scorer` for each split.

        Args:
            num_train_images: The size of "train", a fixed sample of the training images that serves to choose models.
                A sample has no groups.
            progress: The progress of the stage that scores; None shows nothing.
        """
        sample = draw_fixed_sample(self.data.train, num_train_images)
        return {
            "train": self._make_scorer("train", sample, progress),
            "val": self._make_scorer("val", self.data.val, progress, self.data.groups.get("val")),
            "test": self._make_scorer("test", self.data.test, progress, self.data.groups.get("test")),
        }

    def ood_fns(self, progress: StageProgress | None = None) -> dict[str, Scorer]:
        """Return a `Scorer` for each set of images that belong to no class, of whose scores only confidences count.

        Args:
            progress: The progress of the stage that scores; None shows nothing.
        """
        return {name: self._make_scorer(name, images, progress) for name, images in self.data.ood.items()}

    def _make_scorer(
        self, name: str, items: Dataset, progress: StageProgress | None, groups_N: np.ndarray | None = None
    ) -> Scorer:
        """Return the `Scorer` of a set of items; `groups_N` are the groups of versions of one image."""
        return Scorer(
            self.model,
            self.subset,
            items,
            objective=self.data.objective,
            normalize=self.data.make_normalizer(),
            collate=self.data.collate,
            groups_N=groups_N,
            label=f"{name} {self.data.noun}",
            options=self.scoring,
            progress=progress,
        )
