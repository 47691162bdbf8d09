"""Explanations of the sources of weights, for the tables and figures that name them."""

from collections.abc import Iterable
from typing import NamedTuple

from core.evaluation.kinds import (
    AVERAGE,
    CONTINUED,
    DEEP_ENSEMBLE,
    EMA,
    ENSEMBLE,
    FINETUNED,
    GENERATED,
    HELD_OUT,
    LAPLACE,
    LAWA,
    NOISED,
    ORIGINAL,
    RECONSTRUCTED,
    SWAG,
    split_number,
)


class Explanation(NamedTuple):
    """The explanation of a source, in which {} stands for the number in its name."""

    meaning: str  # a few words, also used in sentences
    more: str = ""  # the rest of the explanation, for tables


EXPLANATIONS = {  # The keys are families of sources.
    ORIGINAL: Explanation("the checkpoints themselves", ", K trained models that the generator learned from"),
    ENSEMBLE: Explanation(
        "the mean of all checkpoints",
        ", which is one model. The paper calls it the ensemble, but its models do not vote; others call it stochastic "
        "weight averaging (SWA)",
    ),
    GENERATED: Explanation("the M generated models"),
    RECONSTRUCTED: Explanation(
        "the checkpoints, encoded and decoded", ", which shows what the autoencoder alone loses"
    ),
    NOISED: Explanation("checkpoints plus Gaussian noise of {} times each tensor's standard deviation"),
    AVERAGE: Explanation("the mean of {} random checkpoints", ", drawn anew for each model"),
    "soup_original": Explanation(
        "a greedy average of checkpoints",
        ", which is one model: a checkpoint joins the mean if validation accuracy does not fall",
    ),
    "soup_p_diff": Explanation("a greedy average of generated models", ", which is one model"),
    "interpolated": Explanation("points between two random checkpoints"),
    "gaussian": Explanation(
        "samples of a Gaussian with diagonal covariance", ", fitted to the checkpoints. Others call it diagonal SWAG"
    ),
    "gaussian_full": Explanation(
        "samples of a Gaussian with full covariance",
        ", fitted to the checkpoints, which has the covariances between weights",
    ),
    SWAG: Explanation(
        "samples of SWAG's Gaussian", ": half of its covariance is diagonal, half that of the last 20 checkpoints"
    ),
    EMA: Explanation("the exponential moving average of the checkpoints", " in their order, which is one model"),
    LAWA: Explanation("the mean of the latest tenth of the checkpoints", " (LAWA), which is one model"),
    FINETUNED: Explanation("checkpoints trained for {} more steps", ", while the learning rate falls to 0"),
    CONTINUED: Explanation("later checkpoints of the same training", ", which the generator did not see"),
    HELD_OUT: Explanation("checkpoints of other trainings", ", which the generator did not see"),
    LAPLACE: Explanation("samples of the Laplace posterior around the last checkpoint"),
    DEEP_ENSEMBLE: Explanation("whole networks trained from scratch with other seeds"),
}


def find_meaning(source: str) -> str | None:
    """Return a few words that explain a source, or None for an unknown source."""
    return None if (explanation := find_explanation(source)) is None else explanation.meaning


def explain_sources(sources: Iterable[str]) -> dict[str, str]:
    """Return the whole explanation of each source that has one, in the given order."""
    found = {source: find_explanation(source) for source in sources}
    return {source: "".join(explanation) for source, explanation in found.items() if explanation is not None}


def find_explanation(source: str) -> Explanation | None:
    """Return the explanation of a source with its number filled in, or None for an unknown source."""
    family, number = split_number(source)
    if family not in EXPLANATIONS:
        return None
    shown = "a few" if number is None else f"{number:g}"
    return Explanation(*(part.format(shown) for part in EXPLANATIONS[family]))
