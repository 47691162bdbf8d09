"""Parameter autoencoders: a flattened subset of D numbers <-> a latent of L numbers.

B batch · D numbers in one flattened subset · L numbers in one latent.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.networks.blocks import conv_block, upsampling_block
from core.runtime.errors import UserError


class ConvAutoencoder(nn.Module):
    """Stacked strided 1D convolutions down to one latent vector, and back (p-diff, §3.2).

    Each layer halves the length; a linear layer joins the last feature map to the latent. Any D works: vectors are
    padded with zeros to a multiple of 2^layers and cut again.

    Args:
        num_params: D.
        channels: output channels of each encoder layer; the decoder mirrors them.
        kernel_size: odd.
        latent_dim: L.
        input_noise: σ_V, std of the Gaussian added to the (normalized) vector while training.
        latent_noise: σ_Z, std of the Gaussian added to the latent while training.

    Raises:
        UserError: an even kernel, no layer, or a negative noise.
    """

    def __init__(
        self,
        num_params: int,
        channels: Sequence[int] = (64, 128, 256, 256, 32),
        kernel_size: int = 7,
        latent_dim: int = 128,
        input_noise: float = 0.001,
        latent_noise: float = 0.1,
    ):
        super().__init__()
        if not channels or kernel_size % 2 == 0 or min(input_noise, latent_noise) < 0:
            raise UserError(
                f"autoencoder with channels={list(channels)}, kernel_size={kernel_size}, input_noise={input_noise}, latent_noise={latent_noise}: "
                "give at least one channel, an odd kernel and noises of 0 or more"
            )
        self.num_params, self.latent_dim = num_params, latent_dim
        self.input_noise, self.latent_noise = input_noise, latent_noise
        last_length = -(-num_params // 2 ** len(channels))
        self.padded_length = last_length * 2 ** len(channels)
        self.feature_shape = (channels[-1], last_length)

        widths = [1, *channels]
        self.encoder = nn.Sequential(*(conv_block(a, b, kernel_size, stride=2) for a, b in zip(widths, widths[1:])))
        self.to_latent = nn.Linear(channels[-1] * last_length, latent_dim)
        self.from_latent = nn.Linear(latent_dim, channels[-1] * last_length)
        mirrored = [*reversed(channels), channels[0]]
        self.decoder = nn.Sequential(*(upsampling_block(a, b, kernel_size) for a, b in zip(mirrored, mirrored[1:])))
        self.to_vector = nn.Conv1d(channels[0], 1, kernel_size, padding=kernel_size // 2)

    def encode(self, vectors_BD: Tensor) -> Tensor:
        """Normalized vectors (B, D) to latents (B, L)."""
        padded = F.pad(vectors_BD, (0, self.padded_length - self.num_params))
        features_BCL = self.encoder(padded[:, None, :])  # (B, 1, D_padded) -> (B, C, D_padded / 2^layers)
        return self.to_latent(features_BCL.flatten(1))

    def decode(self, latents_BL: Tensor) -> Tensor:
        """Latents (B, L) to normalized vectors (B, D)."""
        features_BCL = self.from_latent(latents_BL).unflatten(1, self.feature_shape)
        return self.to_vector(self.decoder(features_BCL))[:, 0, : self.num_params]

    def forward(self, vectors_BD: Tensor) -> Tensor:
        """dec(enc(v + ξ_V) + ξ_Z), with the noises only while training, like dropout (p-diff, Eq. 3)."""
        if not self.training:
            return self.decode(self.encode(vectors_BD))
        latents_BL = self.encode(vectors_BD + self.input_noise * torch.randn_like(vectors_BD))
        return self.decode(latents_BL + self.latent_noise * torch.randn_like(latents_BL))
