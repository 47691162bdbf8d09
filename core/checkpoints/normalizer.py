"""Bring vectors and latents to zero mean and unit variance, and back.

K checkpoints · D numbers in one flattened subset · L numbers in one latent.
"""

import torch
from torch import Tensor, nn

from core.checkpoints.subset import ParameterSubset

SMALLEST_STD = 1e-6


class Normalizer(nn.Module):
    """An affine map with fixed coefficients, some columns in log space; saved with the generator.

    Log space keeps what must be positive (running variances) positive after it was generated.
    """

    mean: Tensor
    std: Tensor
    log: Tensor

    def __init__(self, mean_D: Tensor, std_D: Tensor, log_D: Tensor | None = None):
        super().__init__()
        self.register_buffer("mean", mean_D)
        self.register_buffer("std", std_D)
        self.register_buffer("log", torch.zeros_like(mean_D, dtype=torch.bool) if log_D is None else log_D)
        self.any_log = bool(self.log.any())  # asked once: asking a GPU at every batch would wait for it

    @classmethod
    def per_tensor(cls, vectors_KD: Tensor, subset: ParameterSubset) -> "Normalizer":
        """Return one mean and one std for each parameter tensor, averaged over the checkpoints (p-diff's choice)."""
        log_D = subset.variances_D
        means, stds = [], []
        parts = zip(vectors_KD.split(subset.sizes, dim=1), log_D.split(subset.sizes), strict=True)
        for part_KS, log_S in parts:  # part by part, so that K × D need not exist twice
            part_KS = _to_log(part_KS, log_S) if log_S.any() else part_KS
            std = part_KS.std(dim=1, correction=0).mean()
            if std < SMALLEST_STD:  # a constant or single number varies, if at all, from checkpoint to checkpoint
                std = part_KS.std(correction=0)
            means.append(part_KS.mean().expand(part_KS.shape[1]))
            stds.append((std if std >= SMALLEST_STD else torch.ones(())).expand(part_KS.shape[1]))
        return cls(torch.cat(means), torch.cat(stds), log_D)

    @classmethod
    def per_coordinate(cls, latents_KL: Tensor) -> "Normalizer":
        """Return one mean and one std for each coordinate, over the checkpoints; used for latents."""
        std_L = latents_KL.std(dim=0, correction=0)
        return cls(latents_KL.mean(dim=0), torch.where(std_L < SMALLEST_STD, torch.ones_like(std_L), std_L))

    @classmethod
    def identity(cls, width: int) -> "Normalizer":
        """Return the map that changes nothing."""
        return cls(torch.zeros(width), torch.ones(width))

    def columns(self, part: slice) -> "Normalizer":
        """Return the same map for some of the columns."""
        return Normalizer(self.mean[part], self.std[part], self.log[part])

    def normalize(self, values_BD: Tensor) -> Tensor:
        """Bring values to zero mean and unit variance."""
        return ((_to_log(values_BD, self.log) if self.any_log else values_BD) - self.mean) / self.std

    def unnormalize(self, values_BD: Tensor) -> Tensor:
        """Undo `normalize`."""
        values_BD = values_BD * self.std + self.mean
        return torch.where(self.log, values_BD.exp(), values_BD) if self.any_log else values_BD


def _to_log(values_BD: Tensor, log_D: Tensor) -> Tensor:
    """Take the log of the columns kept in log space; a variance that has died out counts as tiny, not as 0."""
    return torch.where(log_D, values_BD.clamp_min(1e-12).log(), values_BD)
