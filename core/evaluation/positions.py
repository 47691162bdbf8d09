"""Positions of models in the space in which distances in weights are measured.

Vectors of plain parameters are positions themselves. The factors of low-rank updates are not, because different factors
may have the same product (`core.checkpoints.low_rank`). Their models are placed so that the distances are those of the
products.

P models of all sources · K originals · D numbers in one vector · C coordinates of a position.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from scipy.linalg import solve_triangular

from core.checkpoints.subset import ParameterSubset
from core.evaluation.kinds import ORIGINAL
from core.evaluation.scores import ScoreTable

ROWS = 32  # models whose products with all others are held at a time, to bound memory
# Vectors are float32, so squared distances below this share of the squared norm are rounding.
ROUNDING = 1e-13


def locate_models(tables: Mapping[str, ScoreTable]) -> dict[str, ScoreTable]:
    """Return the tables with the position of each model in place of its vector.

    The positions (C) have the distances and angles of the weights W + scale · B A, which are never formed: inner
    products of low-rank matrices need only the products of their factors. The origin is the mean of the originals, a
    mean of products and not of factors. Tables of plain parameters, and tables without originals, stay as they are.
    """
    subset = tables[ORIGINAL].subset if ORIGINAL in tables else None
    if subset is None:
        return dict(tables)
    vectors_PD = np.concatenate([table.vectors_MD for table in tables.values()])
    finite_P = np.isfinite(vectors_PD).all(axis=1)  # a model that is not finite has no position, but others have
    is_original_P = np.concatenate([np.full(len(table.vectors_MD), name == ORIGINAL) for name, table in tables.items()])
    positions_PC = np.full((len(vectors_PD), finite_P.sum()), np.nan)
    positions_PC[finite_P] = place(multiply_models(subset, vectors_PD[finite_P]), is_original_P[finite_P])
    ends = np.cumsum([len(table.vectors_MD) for table in tables.values()])
    return {
        name: replace(table, vectors_MD=part_MC)
        for (name, table), part_MC in zip(tables.items(), np.split(positions_PC, ends[:-1]), strict=True)
    }


def multiply_models(subset: ParameterSubset, vectors_PD: np.ndarray) -> np.ndarray:
    """Return the inner products of the weights of every pair of models, (P, P) float64.

    With the products of two models, ⟨B₁A₁, B₂A₂⟩ = tr((B₁ᵀB₂)(A₂A₁ᵀ)), whose matrices are only as large as the rank.
    Entries of the subset that belong to no update count as they are.
    """
    count, starts = len(vectors_PD), np.cumsum(subset.sizes)[:-1]
    parts = dict(zip(subset.names, np.split(vectors_PD, starts, axis=1), strict=True))
    shapes = dict(zip(subset.names, subset.shapes, strict=True))
    products_PP = np.zeros((count, count))

    def take_factor(name: str) -> np.ndarray:  # matrices, whose axes after the first count as one
        return parts.pop(name).astype(np.float64).reshape(count, shapes[name][0], -1)

    for update in subset.updates:
        a_PRI, b_PRO = take_factor(update.a), take_factor(update.b).transpose(0, 2, 1)
        rank = a_PRI.shape[1]
        flat_a, flat_b = (factor.reshape(count * rank, -1) for factor in (a_PRI, b_PRO))
        for rows in np.array_split(np.arange(count), -(-count // ROWS)):
            of_rows = slice(rank * rows[0], rank * (rows[-1] + 1))
            inner = (flat_b[of_rows] @ flat_b.T) * (flat_a[of_rows] @ flat_a.T)
            products_PP[rows] += update.scale**2 * inner.reshape(len(rows), rank, count, rank).sum(axis=(1, 3))
    for part in parts.values():
        plain = part.astype(np.float64)
        products_PP += plain @ plain.T
    return products_PP


def place(products_PP: np.ndarray, is_original_P: np.ndarray) -> np.ndarray:
    """Return positions (P, P) with these inner products, relative to the mean of the originals.

    The rows are orthogonalized one after the other (Gram-Schmidt, as in a Cholesky decomposition), those of the
    originals first. A model far away, such as a diverged one, then costs the others no precision.
    """
    mean_P = products_PP[is_original_P].mean(axis=0)
    centered_PP = products_PP - mean_P - mean_P[:, None] + mean_P[is_original_P].mean()
    positions_PC, basis_CC = np.zeros_like(products_PP), np.zeros_like(products_PP)
    basis: list[int] = []  # the models that span the space so far
    for row in np.argsort(~is_original_P, kind="stable"):
        size = len(basis)
        positions_PC[row, :size] = solve_triangular(
            basis_CC[:size, :size], centered_PP[basis, row], lower=True, check_finite=False
        )
        rest = centered_PP[row, row] - (positions_PC[row] ** 2).sum()
        if rest > ROUNDING * products_PP[row, row]:
            positions_PC[row, size] = np.sqrt(rest)
            basis_CC[size] = positions_PC[row]
            basis.append(int(row))
    return positions_PC
