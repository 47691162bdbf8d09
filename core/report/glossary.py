"""Explanations of the sources of weights, for the tables and figures that name them."""

from collections.abc import Iterable

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

EXPLANATIONS = {  # The keys are families of sources; {} stands for the number in the name of a source.
    ORIGINAL: "the K trained checkpoints that the generator learned from",
    ENSEMBLE: "one model whose weights are the mean of all K checkpoints. The paper calls it the ensemble, but "
    "its models do not vote; others call it stochastic weight averaging (SWA)",
    GENERATED: "the M generated models",
    RECONSTRUCTED: "each checkpoint encoded and decoded again, which shows what the autoencoder alone loses",
    NOISED: "checkpoints plus Gaussian noise of {} times the standard deviation of each tensor",
    AVERAGE: "each model is the mean of {} random checkpoints",
    "interpolated": "each model lies at a random point between two random checkpoints",
    "gaussian": "models drawn from a Gaussian fitted to the checkpoints, with independent weights. Others call it "
    "diagonal SWAG",
    "gaussian_full": "models drawn from a Gaussian fitted to the checkpoints, with the covariances between weights",
    SWAG: "models drawn from SWAG's Gaussian: half of its covariance is diagonal, half that of the last 20 checkpoints",
    EMA: "one model, the exponential moving average over the checkpoints in their order",
    LAWA: "one model, the mean of the latest tenth of the checkpoints (LAWA)",
    FINETUNED: "checkpoints trained for {} more steps, while the learning rate falls to 0",
    CONTINUED: "later checkpoints of the same training, which the generator did not see",
    HELD_OUT: "further independently trained networks, which the generator did not see",
    LAPLACE: "models drawn from the Laplace posterior around the last checkpoint",
    DEEP_ENSEMBLE: "whole networks trained from scratch with other seeds",
}


def explain_sources(sources: Iterable[str]) -> dict[str, str]:
    """Return the explanation of each source that has one, in the given order."""
    explained = {}
    for source in sources:
        family, number = split_number(source)
        if family in EXPLANATIONS:
            explained[source] = EXPLANATIONS[family].format("a few" if number is None else f"{number:g}")
    return explained
