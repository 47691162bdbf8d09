"""The tolerance to which resampled influences and metrics that are computed anew must agree.

R draws of the items
"""

import numpy as np

TOLERANCE = 0.15  # as docs/method.md says


def assert_same_spread(linear_R2: np.ndarray, exact_R2: np.ndarray) -> None:
    """Check the standard errors of two models and of their difference, each from the same draws of the items."""
    for linear_R, exact_R in zip(add_difference(linear_R2), add_difference(exact_R2), strict=True):
        assert abs(linear_R.std() / exact_R.std() - 1) < TOLERANCE
        assert np.corrcoef(linear_R, exact_R)[0, 1] > 0.95


def add_difference(values_R2: np.ndarray) -> list[np.ndarray]:
    """Return the values of two models and their difference, three arrays (R,)."""
    return [*values_R2.T, values_R2[:, 1] - values_R2[:, 0]]
