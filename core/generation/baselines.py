"""Weights that need no generative model: what a generated model has to beat.

K checkpoints · M new models · D numbers in one flattened subset. No function alters the checkpoints it is given.
"""

import torch
from torch import Tensor

from core.checkpoints.subset import ParameterSubset


def ensemble(vectors_KD: Tensor) -> Tensor:
    """One model, the mean of all checkpoints (1, D): the paper's "ensemble" column."""
    return vectors_KD.mean(dim=0, keepdim=True)


def choose(num_checkpoints: int, num_models: int, generator: torch.Generator) -> Tensor:
    """Row numbers of `num_models` checkpoints, each used once before any is used twice."""
    rounds = -(-num_models // num_checkpoints)
    return torch.cat([torch.randperm(num_checkpoints, generator=generator) for _ in range(rounds)])[:num_models]


def noised(
    vectors_KD: Tensor, subset: ParameterSubset, sigma: float, *, num_models: int, generator: torch.Generator
) -> Tensor:
    """Random checkpoints plus Gaussian noise, `sigma` relative to the std of each tensor (M, D)."""
    vectors_MD = vectors_KD[choose(len(vectors_KD), num_models, generator)]  # indexing copies
    stds = [
        part.std(dim=1, correction=0, keepdim=True).expand_as(part) for part in vectors_MD.split(subset.sizes, dim=1)
    ]
    return vectors_MD + sigma * torch.cat(stds, dim=1) * torch.randn(vectors_MD.shape, generator=generator)


def without_negative_variances(vectors_MD: Tensor, subset: ParameterSubset) -> Tensor:
    """Set running variances that noise took below 0 to 0, as a network with them has no output (M, D)."""
    return torch.where(subset.variances_D, vectors_MD.clamp_min(0), vectors_MD)


def average(vectors_KD: Tensor, group_size: int, *, num_models: int, generator: torch.Generator) -> Tensor:
    """Each model is the mean of `group_size` random checkpoints (M, D)."""
    groups = [torch.randperm(len(vectors_KD), generator=generator)[:group_size] for _ in range(num_models)]
    return torch.stack([vectors_KD[rows].mean(dim=0) for rows in groups])


def interpolated(vectors_KD: Tensor, num_models: int, generator: torch.Generator) -> Tensor:
    """Each model lies at a random point between two random different checkpoints (M, D)."""
    pairs = torch.stack([torch.randperm(len(vectors_KD), generator=generator)[:2] for _ in range(num_models)])
    share_M1 = torch.rand(num_models, 1, generator=generator)
    return torch.lerp(vectors_KD[pairs[:, 0]], vectors_KD[pairs[:, 1]], share_M1)


def gaussian(vectors_KD: Tensor, num_models: int, generator: torch.Generator) -> Tensor:
    """Draws from the Gaussian with the checkpoints' mean and diagonal covariance (M, D)."""
    noise_MD = torch.randn(num_models, vectors_KD.shape[1], generator=generator)
    return vectors_KD.mean(dim=0) + vectors_KD.std(dim=0) * noise_MD


def gaussian_full(vectors_KD: Tensor, num_models: int, generator: torch.Generator) -> Tensor:
    """Draws from the Gaussian with the checkpoints' mean and full covariance (M, D).

    The covariance XᵀX/(K−1) of the centered X has rank below K, so a draw is z X / √(K−1) with z ~ N(0, I_K): the
    D × D matrix is never formed.
    """
    mean_D = vectors_KD.mean(dim=0)
    noise_MK = torch.randn(num_models, len(vectors_KD), generator=generator)
    return mean_D + noise_MK @ (vectors_KD - mean_D) / (len(vectors_KD) - 1) ** 0.5
