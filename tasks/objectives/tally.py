"""The loss, error and confidence of classifiers on single images.

M models · N images · B images in one chunk · C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import torch
from torch import Tensor

from core.evaluation.calibration import measure_calibration_error


@dataclass
class Tally:
    """The loss, error and confidence of M models on each of B images."""

    loss_MB: Tensor
    wrong_MB: Tensor  # bool
    confidence_MB: Tensor  # the probability of the predicted class

    @classmethod
    def from_log_probabilities(cls, log_MBC: Tensor, labels_B: Tensor) -> "Tally":
        """Build the tally from the log-probabilities (M, B, C) and the labels (B,).

        NaN predicts no class, so it counts as wrong. The loss and the confidence stay NaN.
        """
        confidence_MB, predicted_MB = log_MBC.max(dim=2)
        labels_MB1 = labels_B[None, :, None].expand(len(log_MBC), -1, 1)
        wrong_MB = (predicted_MB != labels_B) | confidence_MB.isnan()
        return Tally(-log_MBC.gather(2, labels_MB1)[:, :, 0], wrong_MB, confidence_MB.exp())

    @classmethod
    def join(cls, chunks: Sequence[Self]) -> Self:
        """Return the tally of all images of a split, on the CPU, from the tallies of its chunks."""
        return cls(*(torch.cat([getattr(chunk, field.name) for chunk in chunks], dim=1).cpu() for field in fields(cls)))

    @property
    def accuracy_M(self) -> np.ndarray:
        """The share of correct predictions."""
        return (~self.wrong_MB.numpy()).mean(axis=1)

    @property
    def nll_M(self) -> np.ndarray:
        """The mean negative log-likelihood of the labels."""
        return self.loss_MB.double().mean(dim=1).numpy()

    @property
    def ece_M(self) -> np.ndarray:
        """The expected calibration error; NaN if a confidence is NaN."""
        return measure_calibration_error(self.confidence_MB.numpy(), self.wrong_MB.numpy())
