"""Small cases of every task, on which the tests of the contract run. A new task is added to `CASES`, and nowhere else.

N items · B images in one batch · C classes · H height · W width · d detections of one image
"""

import sys
import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.data import TensorDataset, default_collate

from core.checkpoints.subset import flatten, resolve_subset, unflatten
from core.evaluation.scores import Metric, Scores
from tasks.data.scenes import collate_detection
from tasks.data.splits import FixedItems, TaskData
from tasks.objectives.classification import Classification
from tasks.objectives.detection import Detection
from tasks.objectives.generation import Generation, stack_planes
from tasks.objectives.objective import add_model_axis
from tasks.objectives.segmentation import VOID, Segmentation
from tasks.scoring.scorer import Scorer, ScoringSpec
from tests.test_documentation import OWN_TASK

NUM_ITEMS, NUM_CLASSES = 60, 3


@dataclass(frozen=True)
class Case:
    """A network that does its task imperfectly, the data, and how far models of the tests differ from the network."""

    model: nn.Module
    data: TaskData
    spread: float

    def draw_models(self, num_models: int) -> torch.Tensor:
        """Return the vectors (M, D) of networks near the given one, of which the first is the network itself."""
        vector_D = flatten(self.model, resolve_subset(self.model, "all"))
        noise_MD = torch.randn(num_models, len(vector_D), generator=torch.Generator().manual_seed(1))
        return vector_D + self.spread * torch.arange(num_models)[:, None] / num_models * noise_MD

    def predict(self, vector_D: torch.Tensor, inputs: Any) -> Any:
        """Return the predictions of one network by direct calls, with an axis of one model."""
        parameters = unflatten(vector_D, resolve_subset(self.model, "all"))

        def network(*given):
            return torch.func.functional_call(self.model.eval(), parameters, given)

        with torch.no_grad():
            return add_model_axis(self.data.objective.predict(network, inputs))

    def make_batch(self, indices: Iterable[int]) -> tuple[Any, Any]:
        """Return some test items as a batch."""
        return (self.data.collate or default_collate)([self.data.test[index] for index in indices])

    def score(self, vectors_MD: torch.Tensor, batch_size: int | str = "auto") -> Scores:
        """Return the scores on the test items, as commands compute them."""
        scorer = Scorer(
            self.model,
            resolve_subset(self.model, "all"),
            self.data.test,
            objective=self.data.objective,
            normalize=self.data.make_normalizer(),
            collate=self.data.collate,
            options=ScoringSpec(batch_size=batch_size),
        )
        return scorer(vectors_MD)


def make_classification() -> Case:
    """Return points around the corners of a triangle, and a linear classifier of them."""
    generator = torch.Generator().manual_seed(0)
    labels_N = torch.randint(NUM_CLASSES, (NUM_ITEMS,), generator=generator)
    points_N3 = torch.eye(NUM_CLASSES)[labels_N] + 0.6 * torch.randn(NUM_ITEMS, NUM_CLASSES, generator=generator)
    items = TensorDataset(points_N3, labels_N)
    return Case(make_identity(nn.Linear(3, 3)), TaskData(items, items, items, Classification(NUM_CLASSES)), spread=0.8)


def make_segmentation() -> Case:
    """Return images of noisy stripes with a void row, and a convolution of single pixels that finds their classes."""
    generator = torch.Generator().manual_seed(0)
    masks_NHW = torch.randint(NUM_CLASSES, (NUM_ITEMS, 1, 8), generator=generator).repeat(1, 6, 1)
    images_NCHW = torch.eye(NUM_CLASSES)[masks_NHW].movedim(-1, 1)
    images_NCHW = images_NCHW + 0.7 * torch.randn(images_NCHW.shape, generator=generator)
    masks_NHW[:, 0] = VOID
    items = TensorDataset(images_NCHW, masks_NHW)
    convolution = make_identity(nn.Conv2d(3, NUM_CLASSES, 1))
    return Case(convolution, TaskData(items, items, items, Segmentation(NUM_CLASSES)), spread=0.8)


def make_identity(layer: nn.Linear | nn.Conv2d) -> nn.Module:
    """Return the layer with weights that pass its inputs on."""
    with torch.no_grad():
        layer.weight.copy_(torch.eye(NUM_CLASSES).reshape(layer.weight.shape))
        layer.bias.zero_()
    return layer


class MarkedDetector(nn.Module):
    """A detector of images whose rows of pixels are detections: four corners, a label and a score before a sigmoid.

    Its parameters move the corners and scale the scores of each class.
    """

    def __init__(self):
        super().__init__()
        self.shift, self.scale = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.ones(NUM_CLASSES))

    def forward(self, images, targets=None):
        """Return detections, or losses if there are targets."""
        found = []
        for image_3d6 in images:
            corners_d4, labels_d = image_3d6[0, :, :4], image_3d6[0, :, 4].long()
            scores_d = torch.sigmoid(image_3d6[0, :, 5] * self.scale[labels_d])
            found.append({"boxes": corners_d4 + self.shift, "labels": labels_d, "scores": scores_d})
        if targets is None:
            return found
        pairs = [(one, given) for one, given in zip(found, targets, strict=True) if len(given["boxes"])]
        centers = [one["boxes"].mean(0) - given["boxes"].mean(0) for one, given in pairs]
        scores_d = torch.cat([one["scores"] for one in found])
        return {"boxes": torch.cat(centers).square().mean(), "scores": scores_d.mean()}


def make_detection() -> Case:
    """Return images with none to three objects, and a detector that finds most of them beside false boxes."""
    generator, items = torch.Generator().manual_seed(0), []
    for index in range(NUM_ITEMS):
        count = index % 4
        boxes_g4 = 40 * torch.rand(count, 4, generator=generator)
        boxes_g4[:, 2:] = boxes_g4[:, :2] + 10 + 20 * torch.rand(count, 2, generator=generator)
        labels_g = torch.randint(1, NUM_CLASSES, (count,), generator=generator)
        moved_g4 = boxes_g4 + 1.5 * torch.randn(count, 4, generator=generator)
        false_24 = torch.tensor([[0.0, 0, 30, 30], [20, 20, 45, 45]])
        corners_d4 = torch.cat([moved_g4, false_24])
        found_d = torch.cat([labels_g, torch.randint(1, NUM_CLASSES, (2,), generator=generator)])
        score_d = torch.randn(count + 2, generator=generator) + 1.5 * (torch.arange(count + 2) < count)
        rows_d6 = torch.cat([corners_d4, found_d[:, None], score_d[:, None]], dim=1)
        items.append((rows_d6.expand(3, -1, -1).clone(), {"boxes": boxes_g4, "labels": labels_g}))
    split = FixedItems(items)
    data = TaskData(split, split, split, Detection(NUM_CLASSES), collate=collate_detection)
    return Case(MarkedDetector(), data, spread=1.5)


def make_regression() -> Case:
    """Return the example of docs/own_task.md with its first test items."""
    example = types.ModuleType("example_of_an_own_task")
    sys.modules[example.__name__] = example  # the classes of the example look up their module
    exec(compile(OWN_TASK, "docs/own_task.md", "exec"), example.__dict__)
    torch.manual_seed(0)
    model, splits, objective = example.task()
    inputs_N, targets_N = splits["test"][:NUM_ITEMS]
    items = TensorDataset(inputs_N, targets_N)
    return Case(model, TaskData(items, items, items, objective), spread=0.2)


class NoiseGuess(nn.Module):
    """A network that predicts a share of the noisy image as its noise, another one late than early, and a constant."""

    def __init__(self):
        super().__init__()
        self.share, self.later, self.constant = (nn.Parameter(torch.tensor(value)) for value in (0.6, 0.3, 0.1))

    def forward(self, noisy_BCSS, timestep_B):
        """Return the predicted noise (B, C, S, S)."""
        late_B111 = (timestep_B / 1000).view(-1, 1, 1, 1)
        return (self.share + self.later * late_B111) * noisy_BCSS + self.constant


class PixelFeatures(nn.Module):
    """The mean and the upper left pixel of an image as its features."""

    num_features = 2

    def forward(self, images_BCSS):
        """Return the features (B, 2)."""
        return torch.stack([images_BCSS.mean(dim=(1, 2, 3)), images_BCSS[:, 0, 0, 0]], dim=1)


def make_generation() -> Case:
    """Return bright images of 4×4 pixels, and a network that makes darker ones."""
    generator = torch.Generator().manual_seed(0)
    images_N144 = 0.5 + 0.2 * torch.randn(NUM_ITEMS, 1, 4, 4, generator=generator)
    planes = torch.stack([stack_planes(image, 1000, generator) for image in images_N144])
    items = TensorDataset(planes, images_N144)
    objective = Generation(
        PixelFeatures(),
        Metric("FID", unit="", higher_is_better=False),
        num_timesteps=1000,
        sampling_steps=3,
        recorded={},
    )
    return Case(NoiseGuess(), TaskData(items, items, items, objective), spread=0.1)


CASES: dict[str, Callable[[], Case]] = {
    "classification": make_classification,
    "segmentation": make_segmentation,
    "detection": make_detection,
    "generation": make_generation,
    "regression": make_regression,
}
