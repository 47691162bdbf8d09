"""Autoencoders built on principal components, which need no gradient: PCA alone, and PCA by chunks under convolutions.

K checkpoints · B batch · D numbers in one flattened subset · L numbers in one latent · N chunks of S numbers, R codes
each.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.networks.autoencoder import Autoencoder, Columns, ConvStack
from core.runtime.errors import UserError

NUMBERS_AT_ONCE = 2**22  # of the K vectors, while the Gram matrix or the components are computed
SMALLEST_SPREAD = 1e-5  # relative to the largest: below, a direction is rounding error


class PCAAutoencoder(Autoencoder):
    """The best linear autoencoder: projection on the first L principal components of the K vectors.

    Computed from the K × K Gram matrix, so D × D is never formed. With L ≥ K − 1 the K vectors are reproduced exactly;
    components beyond K − 1 stay zero.
    """

    center: Tensor
    components: Tensor

    def __init__(self, num_params: int, latent_dim: int = 128):
        super().__init__(num_params, latent_dim, input_noise=0.0, latent_noise=0.0)
        self.register_buffer("center", torch.zeros(num_params))
        self.register_buffer("components", torch.zeros(latent_dim, num_params))  # orthonormal rows

    def adapt(self, columns: Columns, num_vectors: int) -> None:
        """Find the components of the K vectors."""
        at_once = max(1, NUMBERS_AT_ONCE // num_vectors)
        parts = [slice(start, min(start + at_once, self.num_params)) for start in range(0, self.num_params, at_once)]
        gram_KK = torch.zeros(num_vectors, num_vectors, dtype=torch.float64, device=self.center.device)
        for part in parts:
            values = columns(part)
            self.center[part] = values.mean(dim=0)
            centered = values - self.center[part]
            gram_KK = gram_KK + (centered @ centered.T).double()
        variance_K, left_KK = torch.linalg.eigh(gram_KK)  # ascending
        kept = (variance_K.sqrt() > SMALLEST_SPREAD * variance_K[-1].sqrt()).nonzero()[:, 0].flip(0)[: self.latent_dim]
        weights_LK = (left_KK[:, kept] / variance_K[kept].sqrt()).T.float()
        for part in parts:
            self.components[: len(kept), part] = weights_LK @ (columns(part) - self.center[part])

    def encode(self, vectors_BD: Tensor) -> Tensor:
        """Turn normalized vectors (B, D) into latents (B, L)."""
        return (vectors_BD - self.center) @ self.components.T

    def decode(self, latents_BL: Tensor) -> Tensor:
        """Turn latents (B, L) into normalized vectors (B, D)."""
        return self.center + latents_BL @ self.components


class ChunkedAutoencoder(ConvStack):
    """For large D: convolutions over the principal components of small chunks instead of over single numbers.

    Neighbouring weights have little in common, so convolutions that read them one by one must grow with D to tell
    them apart. Here the vector is cut into N chunks of S numbers; the R principal components of each chunk over the K
    checkpoints, computed once, turn it into R codes. Convolutions shared by all chunks join the codes to one latent; a
    learned position embedding tells the chunks apart. With channels ending in C and h halvings, memory is R numbers per
    parameter for the components, and C · L / (S · 2^h) for each linear layer; activations are R / S of a batch.

    The components of a chunk are orthonormal, so the squared error splits into one of the codes and one that no
    training changes: training sees codes only, K × N × R numbers in all.

    Args:
        num_params: D.
        chunk_size: S.
        rank: R, at most S.
        channels: Output channels of the convolutions over chunks.
        kernel_size: An odd number.
        latent_dim: L.
        **options: The other arguments of `Autoencoder`.

    Raises:
        UserError: There are more codes than numbers in a chunk, or `ConvStack` refuses its arguments.
    """

    center: Tensor
    components: Tensor
    spread: Tensor

    def __init__(
        self,
        num_params: int,
        *,
        chunk_size: int = 256,
        rank: int = 16,
        channels: Sequence[int] = (32, 32, 32),
        kernel_size: int = 5,
        latent_dim: int = 128,
        **options: Any,
    ):
        if not 1 <= rank <= chunk_size:
            raise UserError(f"autoencoder with rank={rank}, chunk_size={chunk_size}: expected 1 <= rank <= chunk_size")
        num_chunks = -(-num_params // chunk_size)
        super().__init__(
            in_channels=rank,
            length=num_chunks,
            channels=channels,
            kernel_size=kernel_size,
            num_params=num_params,
            latent_dim=latent_dim,
            **options,
        )
        self.num_chunks, self.chunk_size = num_chunks, chunk_size
        self.register_buffer("center", torch.zeros(num_params))
        self.register_buffer("components", torch.zeros(num_chunks, chunk_size, rank))  # orthonormal columns, or zero
        self.register_buffer("spread", torch.zeros(num_chunks, rank))  # std of each code over the K vectors
        self.encoder_position = nn.Parameter(0.02 * torch.randn(rank, num_chunks))
        self.decoder_position = nn.Parameter(0.02 * torch.randn(channels[0], self.padded_length))

    def adapt(self, columns: Columns, num_vectors: int) -> Tensor:
        """Find the components of every chunk and return the codes of the K vectors, (K, R, N)."""
        codes = []
        chunks_at_once = max(1, NUMBERS_AT_ONCE // (num_vectors * self.chunk_size))
        for first in range(0, self.num_chunks, chunks_at_once):
            last = min(first + chunks_at_once, self.num_chunks)
            part = slice(first * self.chunk_size, min(last * self.chunk_size, self.num_params))
            values = columns(part)
            self.center[part] = values.mean(dim=0)
            centered_NKS = self._chunks(values - self.center[part])
            components_NSR, spread_NR = principal_components(centered_NKS, self.components.shape[2])
            self.components[first:last], self.spread[first:last] = components_NSR, spread_NR
            codes.append(self._standardized(centered_NKS @ components_NSR, spread_NR))
        return torch.cat(codes, dim=2)

    def _chunks(self, values_BP: Tensor) -> Tensor:
        """Cut columns (B, P) into chunks (N, B, S); the last is filled with zeros."""
        return (
            F.pad(values_BP, (0, -values_BP.shape[1] % self.chunk_size))
            .unflatten(1, (-1, self.chunk_size))
            .transpose(0, 1)
        )

    def _standardized(self, codes_NBR: Tensor, spread_NR: Tensor) -> Tensor:
        """Return codes of unit variance as a feature map (B, R, N); a direction that does not vary gives zeros."""
        return torch.where(spread_NR > 0, codes_NBR.permute(1, 0, 2) / spread_NR, 0).transpose(1, 2)

    def encode(self, vectors_BD: Tensor) -> Tensor:
        """Turn normalized vectors (B, D) into latents (B, L)."""
        codes_NBR = self._chunks(vectors_BD - self.center) @ self.components
        return self._compress(self._standardized(codes_NBR, self.spread))

    def _compress(self, codes_BRN: Tensor) -> Tensor:
        return self.to_latent(self.features(codes_BRN + self.encoder_position))

    def _codes(self, latents_BL: Tensor) -> Tensor:
        return self.to_vector(self.expand(latents_BL) + self.decoder_position)[:, :, : self.num_chunks]

    def decode(self, latents_BL: Tensor) -> Tensor:
        """Turn latents (B, L) into normalized vectors (B, D)."""
        codes_NBR = (self._codes(latents_BL) * self.spread.T).permute(2, 0, 1)
        centered_BNS = (codes_NBR @ self.components.transpose(1, 2)).transpose(0, 1)
        return self.center + centered_BNS.flatten(1)[:, : self.num_params]

    def training_loss(self, codes_BRN: Tensor) -> Tensor:
        """Return the part of `Autoencoder.training_loss` that training can change, from the codes (B, R, N).

        Gaussian noise on a vector is Gaussian noise on its codes, of the same σ before they are standardized.
        """
        noise_BRN = torch.where(self.spread > 0, self.input_noise / self.spread, 0).T * torch.randn_like(codes_BRN)
        latents_BL = self._compress(codes_BRN + noise_BRN)
        error_BRN = self._codes(latents_BL + self.latent_noise * torch.randn_like(latents_BL)) - codes_BRN
        return (error_BRN * self.spread.T).square().sum() / (len(codes_BRN) * self.num_params)


def principal_components(centered_NKS: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return the first `rank` principal components of every chunk (N, S, R), and the std along each (N, R).

    Both hold zeros beyond the rank of the data.
    """
    _, num_vectors, chunk_size = centered_NKS.shape
    gram = (
        centered_NKS.transpose(1, 2) @ centered_NKS
        if chunk_size <= num_vectors
        else centered_NKS @ centered_NKS.transpose(1, 2)
    )
    variance, vectors = torch.linalg.eigh(gram)  # ascending
    variance, vectors = variance.flip(1)[:, :rank], vectors.flip(2)[:, :, :rank]
    if chunk_size > num_vectors:  # from the K × K Gram matrix: components are combinations of the vectors
        vectors = centered_NKS.transpose(1, 2) @ vectors / variance.clamp_min(1e-30).sqrt()[:, None, :]
    varies = variance.clamp_min(0).sqrt() > 100 * SMALLEST_SPREAD * variance[:, :1].clamp_min(0).sqrt()
    components = torch.where(varies[:, None, :], vectors, 0)
    spread = torch.where(varies, (variance.clamp_min(0) / num_vectors).sqrt(), 0)
    missing = rank - components.shape[2]  # fewer vectors than components asked for
    return F.pad(components, (0, missing)), F.pad(spread, (0, missing))
