"""Parameter autoencoders: a flattened subset of D numbers <-> a latent of L numbers.

K checkpoints · B batch · D numbers in one flattened subset · L numbers in one latent · C channels · S length of a
feature map.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.networks.blocks import conv_block, upsampling_block
from core.runtime.errors import UserError

Columns = Callable[[slice], Tensor]  # columns of the K normalized vectors (K, columns): K × D need not exist twice


class Autoencoder(nn.Module):
    """The interface of every parameter autoencoder, as training and generation use it.

    Args:
        num_params: D.
        latent_dim: L.
        input_noise: σ_V, the std of the Gaussian added to the (normalized) vector while training.
        latent_noise: σ_Z, the std of the Gaussian added to the latent while training.

    Raises:
        UserError: There is no latent, or a noise is negative.
    """

    def __init__(self, num_params: int, latent_dim: int, *, input_noise: float = 0.001, latent_noise: float = 0.1):
        super().__init__()
        if latent_dim < 1 or min(input_noise, latent_noise) < 0:
            raise UserError(
                f"autoencoder with latent_dim={latent_dim}, input_noise={input_noise}, latent_noise={latent_noise}: "
                "give a latent_dim of at least 1 and noises of 0 or more"
            )
        self.num_params, self.latent_dim = num_params, latent_dim
        self.input_noise, self.latent_noise = input_noise, latent_noise

    def encode(self, vectors_BD: Tensor) -> Tensor:
        """Turn normalized vectors (B, D) into latents (B, L)."""
        raise NotImplementedError

    def decode(self, latents_BL: Tensor) -> Tensor:
        """Turn latents (B, L) into normalized vectors (B, D)."""
        raise NotImplementedError

    def adapt(self, columns: Columns, num_vectors: int) -> Tensor | None:
        """Compute from the K = `num_vectors` vectors all that needs no gradient; called once, before training.

        Returns:
            The rows (K, …) that `training_loss` is to be given; None where they are the normalized vectors themselves.
        """
        return None

    def forward(self, vectors_BD: Tensor) -> Tensor:
        """Return dec(enc(v + ξ_V) + ξ_Z), with the noises only while training, like dropout (p-diff, Eq. 3)."""
        if not self.training:
            return self.decode(self.encode(vectors_BD))
        latents_BL = self.encode(vectors_BD + self.input_noise * torch.randn_like(vectors_BD))
        return self.decode(latents_BL + self.latent_noise * torch.randn_like(latents_BL))

    def training_loss(self, vectors_BD: Tensor) -> Tensor:
        """Return the squared error against the clean vector, averaged over its D numbers (p-diff, Eq. 4)."""
        return F.mse_loss(self(vectors_BD), vectors_BD)


class ConvStack(Autoencoder):
    """Stacked strided 1D convolutions from a feature map down to one latent vector, and back.

    Each layer halves the length; a linear layer joins the last feature map to the latent. Any length works: maps are
    padded with zeros to a multiple of 2^layers and cut again.

    Args:
        in_channels: Channels of the outermost feature map.
        length: Length of the outermost feature map.
        channels: Output channels of each encoder layer; the decoder mirrors them.
        kernel_size: An odd number.
        **options: The arguments of `Autoencoder`.

    Raises:
        UserError: The kernel is even, or there is no layer.
    """

    def __init__(self, *, in_channels: int, length: int, channels: Sequence[int], kernel_size: int, **options: Any):
        super().__init__(**options)
        if not channels or kernel_size % 2 == 0:
            raise UserError(
                f"autoencoder with channels={list(channels)}, kernel_size={kernel_size}: "
                "give at least one channel and an odd kernel"
            )
        last_length = -(-length // 2 ** len(channels))
        self.length, self.padded_length = length, last_length * 2 ** len(channels)
        self.feature_shape = (channels[-1], last_length)

        widths = [in_channels, *channels]
        self.encoder = nn.Sequential(*(conv_block(a, b, kernel_size, stride=2) for a, b in pairwise(widths)))
        self.to_latent = nn.Linear(channels[-1] * last_length, self.latent_dim)
        self.from_latent = nn.Linear(self.latent_dim, channels[-1] * last_length)
        mirrored = [*reversed(channels), channels[0]]
        self.decoder = nn.Sequential(*(upsampling_block(a, b, kernel_size) for a, b in pairwise(mirrored)))
        self.to_vector = nn.Conv1d(channels[0], in_channels, kernel_size, padding=kernel_size // 2)

    def features(self, map_BCS: Tensor) -> Tensor:
        """Return the last feature map, flat: (B, C, S) to (B, C' · S / 2^layers)."""
        return self.encoder(F.pad(map_BCS, (0, self.padded_length - self.length))).flatten(1)

    def expand(self, latents_BL: Tensor) -> Tensor:
        """Return the feature map before `to_vector`, (B, C, S) with the padding still on, of latents (B, L)."""
        return self.decoder(self.from_latent(latents_BL).unflatten(1, self.feature_shape))


class ConvAutoencoder(ConvStack):
    """The paper's autoencoder: the vector is one channel of length D (p-diff, §3.2).

    Args:
        num_params: D.
        channels: Output channels of each encoder layer; the decoder mirrors them.
        kernel_size: An odd number.
        latent_dim: L.
        **options: The other arguments of `Autoencoder`.

    Raises:
        UserError: The kernel is even, there is no layer, or a noise is negative.
    """

    def __init__(
        self,
        num_params: int,
        channels: Sequence[int] = (64, 128, 256, 256, 32),
        *,
        kernel_size: int = 7,
        latent_dim: int = 128,
        **options: Any,
    ):
        super().__init__(
            in_channels=1,
            length=num_params,
            channels=channels,
            kernel_size=kernel_size,
            num_params=num_params,
            latent_dim=latent_dim,
            **options,
        )

    def encode(self, vectors_BD: Tensor) -> Tensor:
        """Turn normalized vectors (B, D) into latents (B, L)."""
        return self.to_latent(self.features(vectors_BD[:, None, :]))

    def decode(self, latents_BL: Tensor) -> Tensor:
        """Turn latents (B, L) into normalized vectors (B, D)."""
        return self.to_vector(self.expand(latents_BL))[:, 0, : self.length]


class VariationalAutoencoder(ConvAutoencoder):
    """The same network as a VAE, whose prior N(0, I) is sampled instead of a diffusion (p-diff's comparison).

    Args:
        num_params: D.
        kl_weight: β of the KL term; with 1 the loss is the negative ELBO per number of a decoder with variance 1/2.
            Higgins et al. 2017, Eq. 4; Kingma & Welling 2014, Eq. 10.
        **options: The arguments of `ConvAutoencoder`, except for `latent_noise`, which the posterior learns here.
    """

    def __init__(self, num_params: int, kl_weight: float = 1.0, **options: Any):
        super().__init__(num_params, **options)
        self.kl_weight = kl_weight
        self.to_log_variance = nn.Linear(self.to_latent.in_features, self.latent_dim)

    def training_loss(self, vectors_BD: Tensor) -> Tensor:
        """Return the squared error of a draw from the posterior + β KL(posterior ‖ N(0, I)), both per number."""
        features_BF = self.features((vectors_BD + self.input_noise * torch.randn_like(vectors_BD))[:, None, :])
        mean_BL, log_variance_BL = self.to_latent(features_BF), self.to_log_variance(features_BF)
        latents_BL = mean_BL + (log_variance_BL / 2).exp() * torch.randn_like(mean_BL)
        kl_B = (mean_BL.square() + log_variance_BL.exp() - 1 - log_variance_BL).sum(dim=1) / 2
        return F.mse_loss(self.decode(latents_BL), vectors_BD) + self.kl_weight * kl_B.mean() / self.num_params
