"""Parameter autoencoders: they map a vector of D parameters to a latent of L numbers and back.

K checkpoints · B batch · D parameters per vector · L numbers per latent · C channels · S length of a feature map.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.networks.blocks import conv_block, upsampling_block
from core.runtime.errors import UserError

# Returns the given columns of the K normalized vectors, (K, columns); a tensor would be a second copy of K × D numbers.
Columns = Callable[[slice], Tensor]
ACTIVATIONS = {"elu": nn.ELU, "leaky_relu": nn.LeakyReLU}


class Autoencoder(nn.Module):
    """The interface of every parameter autoencoder.

    Training adds Gaussian noise to the normalized vector v and to its latent z (p-diff, Eq. 3):

        z = encode(v + σ_V ξ_V),   v' = decode(z + σ_Z ξ_Z),   ξ_V, ξ_Z ~ N(0, I),

    and minimizes the squared error ‖v' − v‖² / D to the vector without noise (p-diff, Eq. 4).

    Args:
        num_params: D.
        latent_dim: L, at least 1.
        input_noise: σ_V, the standard deviation of the noise on the vector.
        latent_noise: σ_Z, the standard deviation of the noise on the latent.

    Raises:
        UserError: `latent_dim` is below 1, or a noise is negative.
    """

    def __init__(self, num_params: int, latent_dim: int, *, input_noise: float = 0.001, latent_noise: float = 0.1):
        super().__init__()
        if latent_dim < 1 or min(input_noise, latent_noise) < 0:
            raise UserError(
                f"autoencoder with latent_dim={latent_dim}, input_noise={input_noise}, latent_noise={latent_noise} "
                "is invalid: expected latent_dim of at least 1 and both noises of at least 0. "
                "Set them under system.autoencoder"
            )
        self.num_params, self.latent_dim = num_params, latent_dim
        self.input_noise, self.latent_noise = input_noise, latent_noise

    def encode(self, vectors_BD: Tensor) -> Tensor:
        """Map normalized vectors (B, D) to latents (B, L)."""
        raise NotImplementedError

    def decode(self, latents_BL: Tensor) -> Tensor:
        """Map latents (B, L) to normalized vectors (B, D)."""
        raise NotImplementedError

    def adapt(self, columns: Columns, num_vectors: int) -> Tensor | None:
        """Compute everything that depends on the vectors but needs no gradient, such as principal components.

        It is called once, before training.

        Args:
            columns: Returns columns of the K normalized vectors.
            num_vectors: K.

        Returns:
            The rows (K, …) that `training_loss` takes, or None if it takes the normalized vectors (K, D) themselves.
        """
        return None

    def prepare(self, vectors_BD: Tensor) -> Tensor:
        """Return the rows (B, …) that `training_loss` takes, from normalized vectors (B, D), after `adapt`."""
        return vectors_BD

    def forward(self, vectors_BD: Tensor) -> Tensor:
        """Reconstruct vectors, (B, D) to (B, D); both noises are added in training mode only, as dropout would be."""
        if not self.training:
            return self.decode(self.encode(vectors_BD))
        latents_BL = self.encode(vectors_BD + self.input_noise * torch.randn_like(vectors_BD))
        return self.decode(latents_BL + self.latent_noise * torch.randn_like(latents_BL))

    def training_loss(self, vectors_BD: Tensor) -> Tensor:
        """Return ‖v' − v‖² / D, averaged over the batch (p-diff, Eq. 4)."""
        return F.mse_loss(self(vectors_BD), vectors_BD)


class ConvStack(Autoencoder):
    """Strided 1D convolutions from a feature map down to one latent, and transposed convolutions back.

    Each layer halves the length, and linear layers connect the last feature map with the latent. Any length works:
    feature maps are padded with zeros to a multiple of 2^layers, and the decoded map is cropped.

    Args:
        in_channels: Channels of the outermost feature map.
        length: Length of the outermost feature map.
        channels: Output channels of each encoder layer; the decoder mirrors them.
        kernel_size: An odd number.
        activation: The activation of the encoder, a name of `ACTIVATIONS`; the decoder always has ELU.
        second_linear: Whether a second linear layer follows the one that maps the last feature map to the latent.
        **options: The arguments of `Autoencoder`.

    Raises:
        UserError: `channels` is empty, `kernel_size` is even, or `activation` is unknown.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        length: int,
        channels: Sequence[int],
        kernel_size: int,
        activation: str = "elu",
        second_linear: bool = False,
        **options: Any,
    ):
        super().__init__(**options)
        if not channels or kernel_size % 2 == 0 or activation not in ACTIVATIONS:
            raise UserError(
                f"autoencoder with channels={list(channels)}, kernel_size={kernel_size}, activation={activation} is "
                f"invalid: expected at least one channel, an odd kernel_size and an activation of "
                f"{', '.join(ACTIVATIONS)}. Set them under system.autoencoder"
            )
        last_length = -(-length // 2 ** len(channels))
        self.length, self.padded_length = length, last_length * 2 ** len(channels)
        self.feature_shape = (channels[-1], last_length)

        widths, encode_with = [in_channels, *channels], ACTIVATIONS[activation]
        self.encoder = nn.Sequential(
            *(conv_block(a, b, kernel_size, stride=2, activation=encode_with) for a, b in pairwise(widths))
        )
        self.num_features = channels[-1] * last_length
        self.to_latent: nn.Module = nn.Linear(self.num_features, self.latent_dim)
        if second_linear:
            self.to_latent = nn.Sequential(self.to_latent, nn.Linear(self.latent_dim, self.latent_dim))
        self.from_latent = nn.Linear(self.latent_dim, self.num_features)
        mirrored = [*reversed(channels), channels[0]]
        self.decoder = nn.Sequential(*(upsampling_block(a, b, kernel_size) for a, b in pairwise(mirrored)))
        self.to_vector = nn.Conv1d(channels[0], in_channels, kernel_size, padding=kernel_size // 2)

    def encode_map(self, map_BCS: Tensor) -> Tensor:
        """Encode a feature map (B, C, S) to the flattened last one, (B, C' · ⌈S / 2^layers⌉), as `to_latent` takes it.

        C' is the last number of channels.
        """
        return self.encoder(F.pad(map_BCS, (0, self.padded_length - self.length))).flatten(1)

    def decode_map(self, latents_BL: Tensor) -> Tensor:
        """Decode latents (B, L) to the feature map that `to_vector` takes, (B, channels[0], padded length)."""
        return self.decoder(self.from_latent(latents_BL).unflatten(1, self.feature_shape))


class ConvAutoencoder(ConvStack):
    """The autoencoder of p-diff (§3.2), which reads a vector as one channel of length D.

    Args:
        num_params: D.
        channels: Output channels of each encoder layer; the decoder mirrors them.
        kernel_size: An odd number.
        latent_dim: L.
        **options: `activation` and `second_linear` of `ConvStack`, `input_noise` and `latent_noise` of `Autoencoder`.

    Raises:
        UserError: An argument of `ConvStack` or `Autoencoder` is invalid.
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
        """Map normalized vectors (B, D) to latents (B, L)."""
        return self.to_latent(self.encode_map(vectors_BD[:, None, :]))

    def decode(self, latents_BL: Tensor) -> Tensor:
        """Map latents (B, L) to normalized vectors (B, D)."""
        return self.to_vector(self.decode_map(latents_BL))[:, 0, : self.length]


class VariationalAutoencoder(ConvAutoencoder):
    """The convolutional autoencoder as a VAE: new latents are drawn from its prior N(0, I), without a diffusion model.

    The p-diff paper compares diffusion with a VAE. The encoder gives the posterior q(z | v) = N(μ(v), diag σ²(v)), and
    `encode` returns its mean μ(v). The loss per parameter is (Higgins et al. 2017, Eq. 4)

        ‖decode(z) − v‖² / D + β KL(q(z | v) ‖ N(0, I)) / D,   z ~ q(z | v),
        KL = ½ Σ_l (μ_l² + σ_l² − 1 − log σ_l²)   (Kingma & Welling 2014, Appendix B).

    With β = 1 it is the negative ELBO of a Gaussian decoder with variance 1/2 (Kingma & Welling 2014, Eq. 10). During
    training the encoder reads v + σ_V ξ_V, as in `Autoencoder`.

    Args:
        num_params: D.
        kl_weight: β.
        **options: The arguments of `ConvAutoencoder`, except for `latent_noise`, which the posterior replaces.
    """

    def __init__(self, num_params: int, kl_weight: float = 1.0, **options: Any):
        super().__init__(num_params, **options)
        self.kl_weight = kl_weight
        self.to_log_variance = nn.Linear(self.num_features, self.latent_dim)

    def training_loss(self, vectors_BD: Tensor) -> Tensor:
        """Return the loss of the class, for one draw of z per vector, averaged over the batch."""
        features_BF = self.encode_map((vectors_BD + self.input_noise * torch.randn_like(vectors_BD))[:, None, :])
        mean_BL, log_variance_BL = self.to_latent(features_BF), self.to_log_variance(features_BF)
        latents_BL = mean_BL + (log_variance_BL / 2).exp() * torch.randn_like(mean_BL)
        kl_B = (mean_BL.square() + log_variance_BL.exp() - 1 - log_variance_BL).sum(dim=1) / 2
        return F.mse_loss(self.decode(latents_BL), vectors_BD) + self.kl_weight * kl_B.mean() / self.num_params
