"""Classification: cross-entropy, accuracy, errors on single images, and soft votes.

M models · B images in one batch · C classes
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from core.evaluation.scores import ACCURACY, Scores
from tasks.objectives.objective import Network, Objective, ScoreCounter
from tasks.objectives.tally import Tally
from tasks.objectives.votes import VoteCounter


@dataclass(frozen=True)
class Classification(Objective):
    """Each image belongs to one of C classes. Networks return logits (B, C), and targets are labels (B,)."""

    num_classes: int
    metric = ACCURACY

    def compute_loss(self, network: Network, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropy."""
        return F.cross_entropy(network(inputs), targets)

    def count_scores(
        self, num_models: int, device: torch.device, temperature_P: np.ndarray | None = None
    ) -> "ClassificationCounter":
        """Return a counter of accuracy, loss, errors and votes."""
        return ClassificationCounter(VoteCounter(num_models, device, temperature_P))

    def measure_agreement(self, predictions: Tensor, exact: Tensor) -> float:
        """Return the share of images (M, B) for which both logits (M, B, C) predict the same class."""
        return (predictions.argmax(dim=2) == exact.argmax(dim=2)).double().mean().item()


class ClassificationCounter(ScoreCounter):
    """Accuracy, loss, calibration and errors of M classifiers, and their soft votes.

    Args:
        votes: The counter of the soft votes, which need the probabilities of all models on an image at once.
    """

    def __init__(self, votes: VoteCounter):
        self.votes = votes
        self.tallies: list[Tally] = []

    def add(self, predictions: Iterable[tuple[slice, Tensor]], targets: Tensor) -> None:
        """Add the logits (models, B, C) of all models, and the labels (B,)."""
        log_MBC = torch.cat([logits for _, logits in predictions]).log_softmax(dim=2)
        self.tallies.append(Tally.from_log_probabilities(log_MBC, targets))
        self.votes.add(log_MBC, targets)

    def finish(self) -> Scores:
        """Return the scores; the vote of one model is its own prediction."""
        models = Tally.join(self.tallies)
        return Scores(
            models.accuracy_M,
            models.nll_M,
            models.wrong_MB.numpy(),
            models.ece_M,
            self.votes.finish(),
            loss_MN=models.loss_MB.half().numpy(),
        )
