"""A greedy soup: average the weights of models as long as that does not hurt on validation.

M models · D numbers in one flattened subset.
"""

import numpy as np
import torch
from torch import Tensor

from core.evaluation.scores import ScoreFn, Scores


def greedy_soup(vectors_MD: Tensor, val: Scores, score_fn: ScoreFn, num_candidates: int) -> Tensor:
    """One model (1, D).  Wortsman et al. 2022, Recipe 1.

    From the best on validation down, a model joins the average if the accuracy on validation does not fall.

    Args:
        val: the scores of `vectors_MD` on validation.
        score_fn: on validation.
    """
    order = np.lexsort((val.loss_M, -val.accuracy_M))[:num_candidates].tolist()
    soup, best = [order[0]], val.accuracy_M[order[0]]
    for candidate in order[1:]:
        accuracy = score_fn(vectors_MD[[*soup, candidate]].mean(dim=0, keepdim=True)).accuracy_M[0]
        if accuracy >= best:
            soup, best = [*soup, candidate], accuracy
    return torch.mean(vectors_MD[soup], dim=0, keepdim=True)
