"""Artificial score tables for tests."""

import numpy as np

from core.evaluation.scores import Scores, ScoreTable


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
