"""Soft votes of the first n models of a random order, for several n, added up chunk by chunk.

M models · P numbers of models that vote · T temperatures on a grid · N items · B items in one chunk · C classes.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from core.evaluation.scores import Votes
from core.runtime.seeding import generator_for
from tasks.objectives.tally import Tally

TEMPERATURES_T = np.geomspace(0.2, 50, 41)
# Smaller probabilities count as this one, because an infinite loss would hide the losses of all other items.
LEAST_PROBABILITY = torch.finfo(torch.float32).tiny


def list_counts(num_models: int) -> list[int]:
    """Return the numbers of models that vote: 1, 2, 5, 10, 20, 50, … below M, and M itself."""
    rounds = [digit * 10**power for power in range(len(str(num_models))) for digit in (1, 2, 5)]
    return [*(count for count in rounds if count < num_models), num_models]


@dataclass
class VoteTally(Tally):
    """The scores of P votes on each of B items."""

    brier_MB: Tensor
    disagreement_MB: Tensor


class VoteCounter:
    """The soft votes of one source on one split, from chunks of its items.

    The order of the models depends on M alone, so that the same models vote on every split. Only sums over the models
    and results per item are kept, so memory does not grow with the classes of all items.

    Args:
        num_models: M.
        device: The device of the chunks.
        temperature_P: The temperatures of the votes. None uses 1 and fits the temperatures to the items.
    """

    def __init__(self, num_models: int, device: torch.device, temperature_P: np.ndarray | None = None):
        self.counts = list_counts(num_models)
        self.order_M = torch.randperm(num_models, generator=generator_for(0, "soft vote")).to(device)
        self.fits = temperature_P is None
        self.temperature_P = np.ones(len(self.counts)) if temperature_P is None else temperature_P
        self.divisor_P11 = torch.from_numpy(self.temperature_P[:, None, None]).float().to(device)
        self.chunks: list[VoteTally] = []
        self.losses_TP: list[Tensor] = []  # for each chunk, the summed loss at each temperature of the grid

    def add(self, log_MBC: Tensor, labels_B: Tensor) -> None:
        """Add the log-probabilities of all models on one chunk."""
        mean_PBC, disagreement_PB = average_first_models(log_MBC, self.order_M, self.counts)
        log_mean_PBC = mean_PBC.clamp_min(LEAST_PROBABILITY).log()
        if self.fits:
            self.losses_TP.append(sum_losses(log_mean_PBC, labels_B))
        scaled_PBC = (log_mean_PBC / self.divisor_P11).log_softmax(dim=2)
        tally = Tally.from_log_probabilities(scaled_PBC, labels_B)
        brier_PB = scaled_PBC.exp().square().sum(dim=2) - 2 * (-tally.loss_MB).exp() + 1
        self.chunks.append(VoteTally(**vars(tally), brier_MB=brier_PB, disagreement_MB=disagreement_PB))

    def finish(self) -> Votes:
        """Return the votes on all items."""
        tally = VoteTally.join(self.chunks)
        return Votes(
            counts_P=np.array(self.counts),
            temperature_P=self.temperature_P,
            loss_PN=tally.loss_MB.numpy(),
            brier_PN=tally.brier_MB.numpy(),
            confidence_PN=tally.confidence_MB.numpy(),
            wrong_PN=tally.wrong_MB.numpy(),
            disagreement_PN=tally.disagreement_MB.numpy(),
            fitted_P=find_minimum(torch.stack(self.losses_TP).cpu().double().sum(dim=0).numpy()) if self.fits else None,
        )


def average_first_models(log_MBC: Tensor, order_M: Tensor, counts: list[int]) -> tuple[Tensor, Tensor]:
    """Return the mean probabilities (P, B, C) and the disagreement (P, B) of the first models of an order.

    The disagreement is the share of pairs of models that predict different classes, and NaN for fewer than two models.
    A model that gives NaN on an item is left out of both there.

    Args:
        log_MBC: The log-probabilities of all models.
        order_M: The order of the models.
        counts: The numbers of models P, ascending.
    """
    sum_BC = torch.zeros_like(log_MBC[0])
    ballots_BC = torch.zeros_like(sum_BC)  # the number of models that predict each class
    means_BC, disagreements_B = [], []
    for start, stop in pairwise([0, *counts]):
        log_mBC = log_MBC[order_M[start:stop]]
        valid_Bm = (~log_mBC[:, :, 0].isnan()).T
        ballots_BC.scatter_add_(1, log_mBC.argmax(dim=2).T, valid_Bm.to(ballots_BC.dtype))
        sum_BC += log_mBC.exp_().nansum(dim=0)
        voters_B = ballots_BC.sum(dim=1)
        means_BC.append(sum_BC / voters_B[:, None])
        agreeing_B = (ballots_BC * (ballots_BC - 1)).sum(dim=1)  # ordered pairs of models with one prediction
        disagreements_B.append(1 - agreeing_B / (voters_B * (voters_B - 1)))
    return torch.stack(means_BC), torch.stack(disagreements_B)


def sum_losses(log_mean_PBC: Tensor, labels_B: Tensor) -> Tensor:
    """Return the negative log-likelihood (T, P), summed over the items, at each temperature of the grid."""
    labels_PB1 = labels_B[None, :, None].expand(len(log_mean_PBC), -1, 1)
    correct_PB = log_mean_PBC.gather(2, labels_PB1)[:, :, 0]
    return torch.stack(
        [
            ((log_mean_PBC / temperature).logsumexp(dim=2) - correct_PB / temperature).nansum(dim=1)
            for temperature in TEMPERATURES_T.tolist()
        ]
    )


def find_minimum(losses_TP: np.ndarray) -> np.ndarray:
    """Return the temperatures (P,) of the least loss, at the vertices of parabolas through the three best grid points.

    The parabolas are functions of the logarithm of the temperature. If the loss is least at an end of the grid, for
    example because no item is predicted wrongly, the temperature is this end.
    """
    log_T = np.log(TEMPERATURES_T)
    best_P = losses_TP.argmin(axis=0)
    inner_P = best_P.clip(1, len(log_T) - 2)
    before_P, at_P, after_P = np.take_along_axis(losses_TP, inner_P + np.array([[-1], [0], [1]]), axis=0)
    curvature_P = before_P - 2 * at_P + after_P
    shift_P = np.divide(before_P - after_P, 2 * curvature_P, out=np.zeros_like(at_P), where=best_P == inner_P)
    return np.exp(log_T[best_P] + shift_P * (log_T[1] - log_T[0]))
