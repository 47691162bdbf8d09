"""The autocorrelation of checkpoints in the order of their training steps.

K checkpoints · D numbers in one vector.
"""

import math

import numpy as np

from core.evaluation.metrics import multiply_deviations


def measure_autocorrelation(values_KD: np.ndarray) -> np.ndarray:
    """Return the autocorrelation of a series of K vectors at the lags 0 to K − 1, (K,); zeros if all are equal.

    It is the mean inner product of two deviations from the mean that lie `lag` rows apart, relative to the mean squared
    deviation. Sums are divided by K at every lag, as is usual, so that large lags with few pairs count less.
    """
    products_KK = multiply_deviations(values_KD, values_KD)
    sums_K = np.array([np.trace(products_KK, offset=lag) for lag in range(len(products_KK))])
    return sums_K / sums_K[0] if sums_K[0] > 0 else np.zeros(len(sums_K))


def autocorrelation_time(values_KD: np.ndarray) -> int:
    """Return the integrated autocorrelation time τ of a series of K vectors, in rows, at least 1.

    τ = 1 + 2 Σ ρ(lag), summed up to the first lag whose autocorrelation ρ is not positive (after Geyer 1992, Practical
    Markov chain Monte Carlo, Statistical Science 7, §3.3). K rows determine a mean about as well as K / τ independent
    rows. An autocorrelation that falls like exp(−lag / t) has τ ≈ 2t.

    The series must be in the order of the steps. τ is an estimate from one series. A walk that drifts through all K
    rows has no finite τ, and the estimate is then a quarter to a third of K. A few rows show no more than τ = 1 or 2.
    """
    correlation_K = measure_autocorrelation(values_KD)
    negative = np.flatnonzero(correlation_K <= 0)
    end = int(negative[0]) if len(negative) else len(correlation_K)
    return max(1, round(1 + 2 * float(correlation_K[1:end].sum())))


def is_walk(values_KD: np.ndarray) -> bool:
    """Return whether rows of unknown origin are autocorrelated in their given order.

    The autocorrelation of neighbors must exceed 2 / √K, twice its standard deviation in one series of K independent
    numbers (Bartlett 1946). Checkpoints of one training that were shuffled, or a handful of them, are not recognized.
    """
    return len(values_KD) > 1 and bool(measure_autocorrelation(values_KD)[1] > 2 / math.sqrt(len(values_KD)))


def choose_block_length(values_KD: np.ndarray) -> int:
    """Return the block length, in rows, for a circular block bootstrap of the mean of a series of K rows.

    The length is (3K / 2)^(1/3) (2φ / (1 − φ²))^(2/3), the best one for the variance of the mean of an autoregressive
    series of order 1 with the coefficient φ (Politis and White 2004, Automatic block-length selection, Econometric
    Reviews 23, with the correction of Patton, Politis and White 2009). φ follows from τ = (1 + φ) / (1 − φ). The length
    is at most K / 3, so that at least three blocks are drawn. A slower walk then has too narrow an interval.

    Args:
        values_KD: The series whose mean is resampled, in the order of the steps, such as the masks of wrong images, or
            accuracies as one column (K, 1).
    """
    tau, k = autocorrelation_time(values_KD), len(values_KD)
    best = (1.5 * k) ** (1 / 3) * ((tau - 1 / tau) / 2) ** (2 / 3)
    return max(1, min(math.ceil(best), k // 3))
