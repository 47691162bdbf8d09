"""Artificial score tables for tests."""

import numpy as np

from core.evaluation.scores import Scores, ScoreTable, Votes


def scores(accuracy, loss=None, num_images=40, with_wrong=True, seed=0) -> Scores:
    """Make scores with these accuracies and random wrong images."""
    accuracy_M = np.asarray(accuracy, dtype=np.float64)
    loss_M = np.asarray(loss, dtype=np.float64) if loss is not None else 1 - accuracy_M
    wrong_MN = np.random.default_rng(seed).random((len(accuracy_M), num_images)) > accuracy_M[:, None]
    return Scores(accuracy_M, loss_M, wrong_MN if with_wrong else None)


def table(source, test, val=None, identity="id", seed=0) -> ScoreTable:
    """Make a table with random vectors."""
    vectors_MD = np.random.default_rng(seed).normal(size=(len(test.accuracy_M), 6)).astype(np.float32)
    return ScoreTable(source, vectors_MD, {"test": test} | ({"val": val} if val is not None else {}), identity, 1.5)


def votes(accuracy, loss=0.5, confidence=0.9, counts=(1, 2, 4), num_images=40, **changes) -> Votes:
    """Make votes whose numbers are the same for each number of models; the first images are the wrong ones."""
    shape = len(counts), num_images
    wrong_PN = np.broadcast_to(np.arange(num_images) < round((1 - accuracy) * num_images), shape)
    values = {"counts_P": np.array(counts), "temperature_P": np.ones(len(counts)), "wrong_PN": wrong_PN.copy()}
    for name, value in {"loss_PN": loss, "brier_PN": 0.2, "confidence_PN": confidence, "disagreement_PN": 0.1}.items():
        values[name] = np.full(shape, value, dtype=np.float32)
    return Votes(**values | changes)
