"""Explanations of the sources of weights, for the tables and figures that name them."""

from collections.abc import Iterable

from core.evaluation.kinds import (
    AVERAGE,
    ENSEMBLE,
    FINETUNED,
    GENERATED,
    NOISED,
    ORIGINAL,
    RECONSTRUCTED,
    split_number,
)

EXPLANATIONS = {  # The keys are families of sources; {} stands for the number in the name of a source.
    ORIGINAL: "the K trained checkpoints that the generator learned from",
    ENSEMBLE: "one model whose weights are the mean of all K checkpoints. The paper calls it the ensemble, but "
    "its models do not vote",
    GENERATED: "the M generated models",
    RECONSTRUCTED: "each checkpoint encoded and decoded again, which shows what the autoencoder alone loses",
    NOISED: "checkpoints plus Gaussian noise of {} times the standard deviation of each tensor",
    AVERAGE: "each model is the mean of {} random checkpoints",
    "soup_original": "one model, a greedy soup: a checkpoint joins the mean if validation accuracy does not fall",
    "soup_p_diff": "one model, the greedy soup of the generated models",
    "interpolated": "each model lies at a random point between two random checkpoints",
    "gaussian": "models drawn from a Gaussian fitted to the checkpoints, with independent weights",
    "gaussian_full": "models drawn from a Gaussian fitted to the checkpoints, with the covariances between weights",
    FINETUNED: "checkpoints trained for a few more steps",
}


def explain_sources(sources: Iterable[str]) -> dict[str, str]:
    """Return the explanation of each source that has one, in the given order."""
    explained = {}
    for source in sources:
        family, number = split_number(source)
        if family in EXPLANATIONS:
            explained[source] = EXPLANATIONS[family].format("" if number is None else f"{number:g}")
    return explained
