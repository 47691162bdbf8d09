"""Autoencoders built on principal components: PCA alone, and PCA of small chunks followed by convolutions.

Principal components need no gradient; `adapt` computes them once.

K checkpoints · B batch · D parameters per vector · L numbers per latent · N chunks of S numbers, with R codes each.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.networks.autoencoder import Autoencoder, Columns, ConvStack
from core.runtime.errors import UserError

MAX_NUMBERS_PER_PASS = 2**22  # `adapt` normalizes at most this many numbers of the K vectors at a time.
MIN_RELATIVE_STD = 1e-5  # Directions whose std is below this share of the largest std are rounding error.


class PCAAutoencoder(Autoencoder):
    """Projection on the first L principal components of the K vectors: the linear autoencoder with the least error.

    With the mean c of the vectors and the components as the rows of U (L, D),

        encode(v) = U (v − c),   decode(z) = c + Uᵀ z.

    The D × D covariance is never formed. For the centered vectors X (K, D), an eigenvector w of the K × K Gram matrix
    X Xᵀ with eigenvalue λ gives the component u = Xᵀ w / √λ. If L ≥ K − 1, the K vectors are reproduced exactly, and
    components beyond K − 1 are zero.
    """

    center: Tensor
    components: Tensor

    def __init__(self, num_params: int, latent_dim: int = 128):
        super().__init__(num_params, latent_dim, input_noise=0.0, latent_noise=0.0)
        self.register_buffer("center", torch.zeros(num_params))
        self.register_buffer("components", torch.zeros(latent_dim, num_params))  # orthonormal rows

    def adapt(self, columns: Columns, num_vectors: int) -> None:
        """Compute the mean and the principal components of the K vectors."""
        width = max(1, MAX_NUMBERS_PER_PASS // num_vectors)
        parts = [slice(start, min(start + width, self.num_params)) for start in range(0, self.num_params, width)]
        gram_KK = torch.zeros(num_vectors, num_vectors, dtype=torch.float64, device=self.center.device)
        for part in parts:
            values = columns(part)
            self.center[part] = values.mean(dim=0)
            centered = values - self.center[part]
            gram_KK = gram_KK + (centered @ centered.T).double()
        eigenvalues_K, eigenvectors_KK = torch.linalg.eigh(gram_KK)  # ascending
        # Rounding may leave a small eigenvalue negative. Its root is NaN, and the comparison with NaN is false.
        varies_K = eigenvalues_K.sqrt() > MIN_RELATIVE_STD * eigenvalues_K[-1].sqrt()
        kept = varies_K.nonzero()[:, 0].flip(0)[: self.latent_dim]
        weights_LK = (eigenvectors_KK[:, kept] / eigenvalues_K[kept].sqrt()).T.float()
        for part in parts:
            self.components[: len(kept), part] = weights_LK @ (columns(part) - self.center[part])

    def encode(self, vectors_BD: Tensor) -> Tensor:
        """Map normalized vectors (B, D) to latents (B, L)."""
        return (vectors_BD - self.center) @ self.components.T

    def decode(self, latents_BL: Tensor) -> Tensor:
        """Map latents (B, L) to normalized vectors (B, D)."""
        return self.center + latents_BL @ self.components


class ChunkedAutoencoder(ConvStack):
    """Convolutions over the principal components of small chunks of the vector, for large D.

    Neighboring parameters have little in common, so convolutions over single parameters need more channels the larger
    D is. Here the vector is cut into N = ⌈D / S⌉ chunks of S numbers, and each chunk becomes R codes: its coordinates
    along its first R principal components over the K checkpoints, scaled to unit variance. Convolutions that all chunks
    share map the codes to one latent and back, and a learned position embedding tells them which chunk they read.

    The components of a chunk are orthonormal. The squared error of a vector is therefore the squared error of its codes
    (times their variance) plus a part outside the components, which training cannot change. So training reads the
    codes only, K × N × R numbers.

    Memory per parameter is R numbers for the components, and C · L / (S · 2^h) numbers for each of the two linear
    layers, with C channels in the last of h layers. A batch of codes has R / S times the size of its vectors.

    Args:
        num_params: D.
        chunk_size: S.
        rank: R, at most S.
        channels: Output channels of the convolutions over chunks.
        kernel_size: An odd number.
        latent_dim: L.
        **options: The other arguments of `Autoencoder`.

    Raises:
        UserError: `rank` is not between 1 and `chunk_size`, or an argument of `ConvStack` is invalid.
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
            raise UserError(
                f"autoencoder with rank={rank}, chunk_size={chunk_size}: rank must be between 1 and chunk_size; "
                "set them under system.autoencoder"
            )
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
        """Compute the mean and the components of every chunk, and return the codes of the K vectors, (K, R, N)."""
        codes_KRN = torch.empty(num_vectors, self.components.shape[2], self.num_chunks, device=self.center.device)
        chunks_per_pass = max(1, MAX_NUMBERS_PER_PASS // (num_vectors * self.chunk_size))
        for first in range(0, self.num_chunks, chunks_per_pass):
            last = min(first + chunks_per_pass, self.num_chunks)
            part = slice(first * self.chunk_size, min(last * self.chunk_size, self.num_params))
            values = columns(part)
            self.center[part] = values.mean(dim=0)
            centered_NKS = self._cut_into_chunks(values - self.center[part])
            components_NSR, spread_NR = compute_principal_components(centered_NKS, self.components.shape[2])
            self.components[first:last], self.spread[first:last] = components_NSR, spread_NR
            codes_KRN[:, :, first:last] = self._standardize(centered_NKS @ components_NSR, spread_NR)
        return codes_KRN

    def prepare(self, vectors_BD: Tensor) -> Tensor:
        """Return the standardized codes (B, R, N) of normalized vectors (B, D)."""
        codes_NBR = self._cut_into_chunks(vectors_BD - self.center) @ self.components
        return self._standardize(codes_NBR, self.spread)

    def _cut_into_chunks(self, values_BP: Tensor) -> Tensor:
        """Cut P columns (B, P) into chunks (⌈P / S⌉, B, S), padding the last one with zeros."""
        return (
            F.pad(values_BP, (0, -values_BP.shape[1] % self.chunk_size))
            .unflatten(1, (-1, self.chunk_size))
            .transpose(0, 1)
        )

    def _standardize(self, codes_NBR: Tensor, spread_NR: Tensor) -> Tensor:
        """Scale codes to unit variance, as a feature map (B, R, N); a direction that does not vary gives zeros."""
        return torch.where(spread_NR > 0, codes_NBR.permute(1, 0, 2) / spread_NR, 0).transpose(1, 2)

    def encode(self, vectors_BD: Tensor) -> Tensor:
        """Map normalized vectors (B, D) to latents (B, L)."""
        return self._encode_codes(self.prepare(vectors_BD))

    def _encode_codes(self, codes_BRN: Tensor) -> Tensor:
        """Map standardized codes (B, R, N) to latents (B, L)."""
        return self.to_latent(self.encode_map(codes_BRN + self.encoder_position))

    def _decode_codes(self, latents_BL: Tensor) -> Tensor:
        """Map latents (B, L) to standardized codes (B, R, N)."""
        return self.to_vector(self.decode_map(latents_BL) + self.decoder_position)[:, :, : self.num_chunks]

    def decode(self, latents_BL: Tensor) -> Tensor:
        """Map latents (B, L) to normalized vectors (B, D)."""
        codes_NBR = (self._decode_codes(latents_BL) * self.spread.T).permute(2, 0, 1)
        centered_BNS = (codes_NBR @ self.components.transpose(1, 2)).transpose(0, 1)
        return self.center + centered_BNS.flatten(1)[:, : self.num_params]

    def training_loss(self, codes_BRN: Tensor) -> Tensor:
        """Return the part of `Autoencoder.training_loss` that training can change, from standardized codes (B, R, N).

        With the standard deviation s of each code over the K vectors, this is Σ s² (codes' − codes)² / D, averaged over
        the batch. Noise N(0, σ_V²) on a vector is noise N(0, σ_V²) along each of its orthonormal components, and so
        N(0, σ_V² / s²) on the standardized codes.
        """
        noise_BRN = torch.where(self.spread > 0, self.input_noise / self.spread, 0).T * torch.randn_like(codes_BRN)
        latents_BL = self._encode_codes(codes_BRN + noise_BRN)
        error_BRN = self._decode_codes(latents_BL + self.latent_noise * torch.randn_like(latents_BL)) - codes_BRN
        return (error_BRN * self.spread.T).square().sum() / (len(codes_BRN) * self.num_params)


def compute_principal_components(centered_NKS: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return the first R = `rank` principal components of every chunk (N, S, R), and the std along each (N, R).

    Both hold zeros beyond the rank of the data.

    Args:
        centered_NKS: K vectors per chunk, with zero mean over K.
        rank: R.
    """
    _, num_vectors, chunk_size = centered_NKS.shape
    gram = (  # the smaller of S × S and K × K, because both have the same positive eigenvalues
        centered_NKS.transpose(1, 2) @ centered_NKS
        if chunk_size <= num_vectors
        else centered_NKS @ centered_NKS.transpose(1, 2)
    )
    eigenvalues, vectors = torch.linalg.eigh(gram)  # ascending
    eigenvalues, vectors = eigenvalues.flip(1)[:, :rank], vectors.flip(2)[:, :, :rank]
    if chunk_size > num_vectors:  # an eigenvector w of the K × K matrix gives the component Xᵀ w / √λ
        vectors = centered_NKS.transpose(1, 2) @ vectors / eigenvalues.clamp_min(1e-30).sqrt()[:, None, :]
    stds = eigenvalues.clamp_min(0).sqrt()  # √K times the std along each direction
    # The threshold is 100 times that of `PCAAutoencoder`, because these eigenvalues are computed in float32.
    varies = stds > 100 * MIN_RELATIVE_STD * stds[:, :1]
    components = torch.where(varies[:, None, :], vectors, 0)
    spread = torch.where(varies, (eigenvalues.clamp_min(0) / num_vectors).sqrt(), 0)
    missing = rank - components.shape[2]  # positive if there are fewer vectors or numbers than components
    return F.pad(components, (0, missing)), F.pad(spread, (0, missing))
