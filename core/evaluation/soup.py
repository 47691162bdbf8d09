"""A greedy soup: average the weights of models as long as that does not hurt on validation.

M models · D numbers in one flattened subset.
"""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from core.evaluation.kinds import GENERATED, ORIGINAL, Kind, soup_of
from core.evaluation.scores import ScoreFn, Scores, ScoreTable
from core.evaluation.sources import Source


def soups(tables: Mapping[str, ScoreTable], score_fn: ScoreFn, num_candidates: int) -> list[Source]:
    """Return the greedy soups of the originals and of the generated models.

    Args:
        tables: by source; each soup is made once the table that it needs is in there.
        score_fn: on validation.
        num_candidates: how many models a soup tries at most.
    """

    def make(source: str) -> Tensor:
        table = tables[source]
        vectors_MD = torch.from_numpy(table.vectors_MD)
        return greedy_soup(vectors_MD, table.scores["val"], score_fn, num_candidates=num_candidates)

    return [
        Source(soup_of(name), Kind.SOUP, partial(make, name), ("val", "test"), needs_generator=name == GENERATED)
        for name in (ORIGINAL, GENERATED)
    ]


def greedy_soup(vectors_MD: Tensor, val: Scores, score_fn: ScoreFn, *, num_candidates: int) -> Tensor:
    """Return one model (1, D), after Recipe 1 of Wortsman et al. 2022.

    From the best on validation down, a model joins the average if the primary metric on validation gets no worse.

    Args:
        vectors_MD: the models.
        val: the scores of `vectors_MD` on validation.
        score_fn: on validation.
        num_candidates: how many models are tried at most.
    """
    order = val.ranking()[:num_candidates].tolist()
    soup, best = [order[0]], val.goodness_M[order[0]]
    for candidate in order[1:]:
        goodness = score_fn(vectors_MD[[*soup, candidate]].mean(dim=0, keepdim=True)).goodness_M[0]
        if goodness >= best:
            soup, best = [*soup, candidate], goodness
    return torch.mean(vectors_MD[soup], dim=0, keepdim=True)
