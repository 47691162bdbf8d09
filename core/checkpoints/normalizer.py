"""Normalization of vectors and latents to zero mean and unit variance.

K checkpoints · D numbers in one flattened subset · L numbers in one latent.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from core.checkpoints.subset import ParameterSubset
from core.checkpoints.vector_rows import VectorRows

SMALLEST_STD = 1e-6


class Normalizer(nn.Module):
    """An affine map with fixed coefficients, saved with the generator.

    Running variances are normalized in log space, so that generated variances are always positive.
    """

    mean: Tensor
    std: Tensor
    log: Tensor

    def __init__(self, mean_D: Tensor, std_D: Tensor, log_D: Tensor | None = None):
        super().__init__()
        self.register_buffer("mean", mean_D)
        self.register_buffer("std", std_D)
        self.register_buffer("log", torch.zeros_like(mean_D, dtype=torch.bool) if log_D is None else log_D)
        self.any_log = bool(self.log.any())  # read once, because each read waits for the GPU

    @classmethod
    def per_tensor(cls, vectors: VectorRows | Tensor, subset: ParameterSubset) -> "Normalizer":
        """Return a map with one mean and one std per parameter tensor, averaged over the checkpoints (as in p-diff).

        Args:
            vectors: The K vectors, as one tensor (K, D) or in shards. They are read in place and not copied.
            subset: The names and sizes of the parameter tensors.
        """
        shards = vectors.shards if isinstance(vectors, VectorRows) else (vectors,)
        log_D = subset.variances_D
        means, stds = [], []
        parts = zip(*(shard.split(subset.sizes, dim=1) for shard in shards), strict=True)
        # One tensor at a time, to avoid a second copy of all K × D numbers. Each tensor has one block per shard.
        for part, log_S in zip(parts, log_D.split(subset.sizes), strict=True):
            blocks = [_to_log(block_BS, log_S) for block_BS in part] if log_S.any() else part
            std = torch.cat([block_BS.std(dim=1, correction=0) for block_BS in blocks]).mean()
            if std < SMALLEST_STD:
                # The std over the entries of a constant tensor or of a single number is 0. The std over the checkpoints
                # is used instead.
                std = _measure_std(blocks)
            means.append(_measure_mean(blocks).expand(len(log_S)))
            stds.append((std if std >= SMALLEST_STD else torch.ones(())).expand(len(log_S)))
        return cls(torch.cat(means), torch.cat(stds), log_D)

    @classmethod
    def per_coordinate(cls, latents_KL: Tensor) -> "Normalizer":
        """Return a map for latents with one mean and one std per coordinate, taken over the checkpoints."""
        std_L = latents_KL.std(dim=0, correction=0)
        return cls(latents_KL.mean(dim=0), torch.where(std_L < SMALLEST_STD, torch.ones_like(std_L), std_L))

    @classmethod
    def identity(cls, width: int) -> "Normalizer":
        """Return the identity map for vectors of `width` numbers."""
        return cls(torch.zeros(width), torch.ones(width))

    def select_columns(self, part: slice) -> "Normalizer":
        """Return a map of only the columns in `part`."""
        return Normalizer(self.mean[part], self.std[part], self.log[part])

    def normalize(self, values_BD: Tensor) -> Tensor:
        """Map values (B, D) to zero mean and unit variance."""
        return ((_to_log(values_BD, self.log) if self.any_log else values_BD) - self.mean) / self.std

    def unnormalize(self, values_BD: Tensor) -> Tensor:
        """Map normalized values (B, D) back, as the inverse of `normalize`."""
        values_BD = values_BD * self.std + self.mean
        return torch.where(self.log, values_BD.exp(), values_BD) if self.any_log else values_BD


def _average_blocks(values: Tensor, blocks: Sequence[Tensor]) -> Tensor:
    """Return the mean of one value per block, weighted by the rows of the blocks, in float64.

    The mean of a single block is exactly its value.
    """
    rows = torch.tensor([len(block_BS) for block_BS in blocks], dtype=torch.float64)
    return values.double() @ (rows / rows.sum())


def _measure_mean(blocks: Sequence[Tensor]) -> Tensor:
    """Return the mean over all numbers of blocks (B, S) of rows."""
    return _average_blocks(torch.stack([block_BS.mean() for block_BS in blocks]), blocks).to(blocks[0].dtype)


def _measure_std(blocks: Sequence[Tensor]) -> Tensor:
    """Return the std over all numbers of blocks (B, S) of rows, from the means and the variances of the blocks."""
    means = torch.stack([block_BS.mean() for block_BS in blocks]).double()
    variances = torch.stack([block_BS.std(correction=0) for block_BS in blocks]).double().square()
    variance = _average_blocks(variances + (means - _average_blocks(means, blocks)).square(), blocks)
    return variance.sqrt().to(blocks[0].dtype)


def _to_log(values_BD: Tensor, log_D: Tensor) -> Tensor:
    """Take the logarithm of the columns marked in `log_D`, clamped at 1e-12 because a dead channel has variance 0."""
    return torch.where(log_D, values_BD.clamp_min(1e-12).log(), values_BD)
