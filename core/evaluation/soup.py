"""Greedy soups: averages of the weights of models, extended while the validation score does not drop.

M models · D numbers in one flattened subset.
"""

from collections.abc import Mapping
from functools import partial

import numpy as np
import torch
from torch import Tensor

from core.evaluation.kinds import GENERATED, ORIGINAL, Kind, name_soup
from core.evaluation.scores import ScoreFn, Scores, ScoreTable
from core.evaluation.sources import Source
from core.runtime.source_code import digest_code, locate

UNFITTED = np.ones(1)  # A given temperature saves the time of fitting one, which no candidate needs.


def list_soups(tables: Mapping[str, ScoreTable], score_fn: ScoreFn, num_candidates: int) -> list[Source]:
    """Return the greedy soups of the originals and of the generated models as sources.

    Args:
        tables: Score tables by source. A table may be added later, but before the `make` of its soup is called.
        score_fn: Scores vectors on validation.
        num_candidates: Maximum number of models that a soup tries.
    """

    def make(source: str) -> Tensor:
        table = tables[source]
        vectors_MD = torch.from_numpy(table.vectors_MD)
        return greedy_soup(vectors_MD, table.scores["val"], score_fn, num_candidates=num_candidates)

    code = digest_code([locate(greedy_soup), locate(Scores)])
    return [
        Source(
            name_soup(name),
            Kind.SOUP,
            partial(make, name),
            needs_generator=name == GENERATED,
            code=code,
            gradient_evaluations=0.0 if name == ORIGINAL else None,
        )
        for name in (ORIGINAL, GENERATED)
    ]


def greedy_soup(vectors_MD: Tensor, val: Scores, score_fn: ScoreFn, *, num_candidates: int) -> Tensor:
    """Return one averaged model (1, D), after Recipe 1 of Wortsman et al. 2022.

    Models are tried in order of their validation score, best first. A model joins the average if the primary metric of
    the average on validation does not get worse.

    Args:
        vectors_MD: The models.
        val: Scores of `vectors_MD` on validation.
        score_fn: Scores vectors on validation.
        num_candidates: Maximum number of models that are tried.
    """
    order = val.rank()[:num_candidates].tolist()
    soup, best = [order[0]], val.quality_M[order[0]]
    for candidate in order[1:]:
        quality = score_fn(vectors_MD[[*soup, candidate]].mean(dim=0, keepdim=True), UNFITTED).quality_M[0]
        if quality >= best:
            soup, best = [*soup, candidate], quality
    return torch.mean(vectors_MD[soup], dim=0, keepdim=True)
