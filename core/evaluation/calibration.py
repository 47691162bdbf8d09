"""The expected calibration error of classifiers.

M classifiers · N items.
"""

import math

import numpy as np
import torch
from torchmetrics.functional.classification import binary_calibration_error

NUM_BINS = 15


def measure_calibration_error(confidence_MN: np.ndarray, wrong_MN: np.ndarray) -> np.ndarray:
    """Return the expected calibration error (M,) with 15 bins (Guo et al. 2017, Eq. 3); NaN if a confidence is NaN.

    Args:
        confidence_MN: The probability of the predicted class.
        wrong_MN: Whether the predicted class is wrong.
    """
    pairs = zip(torch.from_numpy(confidence_MN).clamp(0, 1), torch.from_numpy(~wrong_MN).int(), strict=True)
    return np.array(
        [
            math.nan
            if confidence_N.isnan().any()
            else binary_calibration_error(confidence_N, correct_N, n_bins=NUM_BINS).item()
            for confidence_N, correct_N in pairs
        ]
    )
