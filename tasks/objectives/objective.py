"""The contract of a task: what its networks learn, and how many of them are scored at once.

M models · N items of a split · B items in one batch
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from core.evaluation.scores import Metric, Scores

MOST_ITEMS = 2048  # items that are scored at once at most
Network = Callable[..., Any]  # a network with its parameters, as a function from inputs to outputs


def add_model_axis(predictions: Any) -> Any:
    """Return the predictions of one network as those of a group of one, whose tensors begin with an axis of models."""
    return tree_map_only(Tensor, lambda part: part[None], predictions)


class ScoreCounter(ABC):
    """The scores of M models on one split, added up batch by batch.

    A counter keeps what the scores need of each item, and not the predictions, so memory stays bounded.
    """

    @abstractmethod
    def add(self, predictions: Iterable[tuple[slice, Any]], targets: Any) -> None:
        """Add one batch.

        Args:
            predictions: The predictions of all models in their order, some models at a time: the rows of these models,
                and their predictions, whose tensors have the shape (models, B, …). They are computed when they are
                asked for.
            targets: The targets of the batch, on the device of the predictions.
        """

    @abstractmethod
    def finish(self) -> Scores:
        """Return the scores on all items. They have groups only if one item of the data has several errors."""


class Objective(ABC):
    """What the networks of a task learn, and the metric by which they are compared.

    A batch of the data consists of inputs and targets. Nothing outside of the objective knows what they mean.

    Attributes:
        metric: The primary metric. It need not be the loss.
    """

    metric: Metric

    @abstractmethod
    def compute_loss(self, network: Network, inputs: Any, targets: Any) -> Tensor:
        """Return the loss of one training batch, a scalar."""

    @abstractmethod
    def count_scores(
        self, num_models: int, device: torch.device, temperature_P: np.ndarray | None = None
    ) -> ScoreCounter:
        """Return a counter for the scores of M models on one split.

        Args:
            num_models: M.
            device: The device of the predictions.
            temperature_P: The temperatures of the soft votes; None fits them to the items. An objective that defines no
                votes ignores them.
        """

    def limit_batch(self, inputs: Any, device: torch.device) -> int:
        """Return how many items one network may score at once, so that what it computes fits into memory.

        Args:
            inputs: The inputs of one item, without an axis of items.
            device: The device that computes.
        """
        return MOST_ITEMS

    def predict(self, network: Network, *inputs: Any) -> Any:
        """Return the predictions of one network for a batch.

        If the network is split at its generated parameters, the tensors that cross the cut take the place of the
        inputs.
        """
        return network(*inputs)

    def record(self) -> dict[str, Any]:
        """Return what decides the scores besides the options, the items and the source code, as plain values."""
        return {}

    def measure_agreement(self, predictions: Any, exact: Any) -> float:
        """Return the share of predictions in a lower precision that are the same as in fp32."""
        return torch.isclose(predictions, exact, rtol=1e-2, atol=1e-6).double().mean().item()
