"""Baselines that make new weights without a generative model. Generated models have to beat them.

No function changes the checkpoints that it is given, and all random numbers come from `generator`.

K checkpoints · M new models · D parameters per vector.
"""

import torch
from torch import Tensor

from core.checkpoints.normalizer import Normalizer
from core.checkpoints.subset import ParameterSubset

NUM_DEVIATIONS = 20  # deviations in the low-rank part of `swag`, the number of the paper
EMA_SPAN, LAWA_SHARE = 10, 0.1  # `ema` and `lawa` both average about the latest tenth of the checkpoints


def ensemble(vectors_KD: Tensor) -> Tensor:
    """Return the mean of all checkpoints as one model (1, D): the column "ensemble" of the p-diff paper."""
    return vectors_KD.mean(dim=0, keepdim=True)


def choose(num_checkpoints: int, num_models: int, generator: torch.Generator) -> Tensor:
    """Choose `num_models` random checkpoints and return their row numbers.

    No checkpoint is chosen twice before every checkpoint was chosen once.
    """
    rounds = -(-num_models // num_checkpoints)
    return torch.cat([torch.randperm(num_checkpoints, generator=generator) for _ in range(rounds)])[:num_models]


def noised(
    vectors_KD: Tensor, subset: ParameterSubset, sigma: float, *, num_models: int, generator: torch.Generator
) -> Tensor:
    """Return random checkpoints plus Gaussian noise (M, D).

    A parameter tensor w of a checkpoint becomes w + σ std(w) ε with ε ~ N(0, I), where std(w) is over its entries.

    Args:
        vectors_KD: The checkpoints.
        subset: The parameter tensors in the columns of the vectors.
        sigma: σ, the relative std of the noise.
        num_models: M.
        generator: The source of all random numbers.
    """
    vectors_MD = vectors_KD[choose(len(vectors_KD), num_models, generator)]  # indexing makes a copy
    stds = [
        part.std(dim=1, correction=0, keepdim=True).expand_as(part) for part in vectors_MD.split(subset.sizes, dim=1)
    ]
    return vectors_MD + sigma * torch.cat(stds, dim=1) * torch.randn(vectors_MD.shape, generator=generator)


def clamp_variances(vectors_MD: Tensor, subset: ParameterSubset) -> Tensor:
    """Return vectors (M, D) with negative running variances set to 0, because they make the network's output NaN."""
    return torch.where(subset.variances_D, vectors_MD.clamp_min(0), vectors_MD)


def average(vectors_KD: Tensor, group_size: int, *, num_models: int, generator: torch.Generator) -> Tensor:
    """Return models (M, D) that are each the mean of `group_size` different random checkpoints."""
    groups = [torch.randperm(len(vectors_KD), generator=generator)[:group_size] for _ in range(num_models)]
    return torch.stack([vectors_KD[rows].mean(dim=0) for rows in groups])


def interpolated(vectors_KD: Tensor, num_models: int, generator: torch.Generator) -> Tensor:
    """Return models (M, D) between two checkpoints each: (1 − u) a + u b for random a ≠ b and u ~ U(0, 1)."""
    pairs = torch.stack([torch.randperm(len(vectors_KD), generator=generator)[:2] for _ in range(num_models)])
    share_M1 = torch.rand(num_models, 1, generator=generator)
    return torch.lerp(vectors_KD[pairs[:, 0]], vectors_KD[pairs[:, 1]], share_M1)


def ema(vectors_KD: Tensor) -> Tensor:
    """Return the exponential moving average over the checkpoints in their order as one model (1, D).

    The average starts at the first checkpoint. Its decay is 1 − 10 / K, which is 0.99 for 1,000 checkpoints, and at
    least 0.5. The average therefore covers about the latest tenth of the checkpoints, however many there are.
    """
    count = len(vectors_KD)
    decay = max(1 - EMA_SPAN / count, 0.5)
    weight_K = (1 - decay) * decay ** torch.arange(count - 1, -1, -1, dtype=torch.float64)
    weight_K[0] /= 1 - decay
    return (weight_K.to(vectors_KD.dtype) @ vectors_KD)[None]


def lawa(vectors_KD: Tensor) -> Tensor:
    """Return the mean of the latest tenth of the checkpoints, but of at least 2, as one model (1, D); Kaddour 2022."""
    return ensemble(vectors_KD[-max(2, round(LAWA_SHARE * len(vectors_KD))) :])


def make_log_map(subset: ParameterSubset) -> Normalizer:
    """Return the map that takes the logarithm of the running variances and changes nothing else.

    Gaussians are fitted behind this map, as p_diff is. Their running variances are therefore positive.
    """
    zeros_D = torch.zeros(subset.num_params)
    return Normalizer(zeros_D, zeros_D + 1, subset.variances_D)


def gaussian(vectors_KD: Tensor, num_models: int, generator: torch.Generator) -> Tensor:
    """Draw models (M, D) from N(mean, diag(std²)), with the mean and std of each coordinate over the checkpoints."""
    noise_MD = torch.randn(num_models, vectors_KD.shape[1], generator=generator)
    return vectors_KD.mean(dim=0) + vectors_KD.std(dim=0) * noise_MD


def gaussian_full(vectors_KD: Tensor, num_models: int, generator: torch.Generator) -> Tensor:
    """Draw models (M, D) from the Gaussian with the mean and the full covariance of the checkpoints.

    With X (K, D) the centered checkpoints, the covariance is Xᵀ X / (K − 1). A draw is mean + Xᵀ z / √(K − 1) with
    z ~ N(0, I_K), so the D × D matrix is never formed.
    """
    mean_D = vectors_KD.mean(dim=0)
    noise_MK = torch.randn(num_models, len(vectors_KD), generator=generator)
    return mean_D + noise_MK @ (vectors_KD - mean_D) / (len(vectors_KD) - 1) ** 0.5


def swag(vectors_KD: Tensor, num_models: int, generator: torch.Generator) -> Tensor:
    """Draw models (M, D) from the Gaussian of SWAG (Maddox et al. 2019, Eq. 1).

    With X (K', D) the deviations of the last K' = 20 checkpoints from the mean of all K, a draw is
    mean + std ∘ z / √2 + Xᵀ y / √(2 (K' − 1)) with z ~ N(0, I_D) and y ~ N(0, I_K'). The paper takes the deviations
    from the running mean. The std of each coordinate is the std of `gaussian`.
    """
    mean_D = vectors_KD.mean(dim=0)
    deviations_KD = vectors_KD[-NUM_DEVIATIONS:] - mean_D
    diagonal_MD = torch.randn(num_models, vectors_KD.shape[1], generator=generator) * vectors_KD.std(dim=0) / 2**0.5
    noise_MK = torch.randn(num_models, len(deviations_KD), generator=generator)
    return mean_D + diagonal_MD + noise_MK @ deviations_KD / (2 * (len(deviations_KD) - 1)) ** 0.5
