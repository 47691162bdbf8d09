"""The Fréchet distance between two sets of features, and the influence of each item on it, in float64.

N items · F features
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

NEGLIGIBLE = 1e-12  # share of the largest eigenvalue below which a direction counts as one without variance


@dataclass(frozen=True)
class Gaussian:
    """The Gaussian with the mean and the covariance of some features.

    Args:
        features_NF: The features of each item.
    """

    features_NF: np.ndarray

    @cached_property
    def mean_F(self) -> np.ndarray:
        """The mean of the features."""
        return self.features_NF.mean(axis=0, dtype=np.float64)

    @cached_property
    def centered_NF(self) -> np.ndarray:
        """The features of each item minus their mean, float64."""
        return self.features_NF.astype(np.float64) - self.mean_F

    @cached_property
    def covariance_FF(self) -> np.ndarray:
        """The covariance, divided by N − 1."""
        return self.centered_NF.T @ self.centered_NF / (len(self.centered_NF) - 1)

    @cached_property
    def roots_FF(self) -> tuple[np.ndarray, np.ndarray]:
        """The symmetric root of the covariance, and the inverse of the root."""
        values_F, vectors_FF = np.linalg.eigh(self.covariance_FF)
        root_F, inverse_F = take_roots(values_F)
        return (vectors_FF * root_F) @ vectors_FF.T, (vectors_FF * inverse_F) @ vectors_FF.T

    def measure_change(self, slope_F: np.ndarray, slope_FF: np.ndarray) -> np.ndarray:
        """Return N times the change of a value (N,) when an item is drawn once more, to first order.

        A larger weight of item n moves the mean by x_n = features − mean, and the covariance by
        x_n x_nᵀ N / (N − 1) − covariance.

        Args:
            slope_F: The derivative of the value with respect to the mean.
            slope_FF: The derivative with respect to the covariance.
        """
        x_NF, num_items = self.centered_NF, len(self.centered_NF)
        square_N = ((x_NF @ slope_FF) * x_NF).sum(axis=1) * num_items / (num_items - 1)
        return x_NF @ slope_F + square_N - (slope_FF * self.covariance_FF).sum()


def take_roots(values_F: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the roots of eigenvalues, and the inverses of the roots; of negligible ones both are 0."""
    kept_F = values_F > NEGLIGIBLE * max(values_F.max(), 0)
    root_F = np.sqrt(np.where(kept_F, values_F, 0))
    return root_F, np.where(kept_F, 1 / np.where(kept_F, root_F, 1), 0)


def measure_distance(real: Gaussian, generated: Gaussian) -> tuple[float, np.ndarray]:
    """Return the Fréchet distance, and the influence (N,) of each pair of a real item and a generated one on it.

    The distance is |μ − ν|² + tr(Σ + Γ − 2 (ΣΓ)^½) (Heusel et al. 2017, Eq. 6), with mean μ and covariance Σ of the
    real features, and ν and Γ of the generated ones. The map A = Σ^½ (Σ^½ Γ Σ^½)^−½ Σ^½ carries Γ to Σ, and the
    derivatives of the distance are I − A with respect to Γ, and I − A⁻¹ with respect to Σ. `Scores.influence_MN`
    explains the influence; its mean is the distance.
    """
    offset_F = generated.mean_F - real.mean_F
    root_FF, inverse_FF = real.roots_FF
    values_F, vectors_FF = np.linalg.eigh(root_FF @ generated.covariance_FF @ root_FF)
    of_values_F, inverse_F = take_roots(values_F)
    distance = float(
        offset_F @ offset_F + np.trace(real.covariance_FF) + np.trace(generated.covariance_FF) - 2 * of_values_F.sum()
    )
    to_real_FF = root_FF @ (vectors_FF * inverse_F) @ vectors_FF.T @ root_FF
    to_generated_FF = inverse_FF @ (vectors_FF * of_values_F) @ vectors_FF.T @ inverse_FF
    identity_FF = np.eye(len(offset_F))
    change_N = generated.measure_change(2 * offset_F, identity_FF - to_real_FF)
    change_N += real.measure_change(-2 * offset_F, identity_FF - to_generated_FF)
    return distance, distance + change_N
