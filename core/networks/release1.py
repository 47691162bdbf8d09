"""The autoencoder and the denoiser of p-diff's first release (2024-02), for comparison with later ones.

The public code is the repository NUS-HPC-AI-Lab/Neural-Network-Parameter-Diffusion before its rewrite; docs/fidelity.md
compares both releases with this project.

B batch · D parameters per vector · L numbers per latent · C channels · S length of a feature map.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.networks.autoencoder import Autoencoder
from core.runtime.errors import UserError


class Release1Autoencoder(Autoencoder):
    """The autoencoder of core/module/modules/encoder.py in p-diff's first release.

    Each encoder layer has two convolutions, of which the second divides the length by `fold`, and the last layer ends
    in tanh. Each decoder layer has a transposed convolution that multiplies the length by `fold`, and a convolution. An
    instance norm over the positions of each channel precedes every convolution. The first of them removes the scale of
    the vector itself, so the latent cannot hold it. The latent is the last feature map, flattened.

    Noise is mixed in rather than added: with the share f, training encodes (1 − f) v + f ξ, and decodes
    (1 − f) z + f ξ clamped to [−1, 1], for ξ ~ N(0, I).

    Args:
        num_params: D.
        encoder_channels: Output channels of each encoder layer.
        decoder_channels: Input channels of each decoder layer; the first number is the last one of the encoder.
        fold: The factor between the lengths of neighboring layers, and the size of every kernel. The release has 5 in
            its `medium` version and 3 in its `small` one.
        input_noise: The share f of noise in the vector, at most 1.
        latent_noise: The share f of noise in the latent, at most 1.

    Raises:
        UserError: An argument is invalid, or D is too small for the number of layers and `fold`.
    """

    def __init__(
        self,
        num_params: int,
        encoder_channels: Sequence[int] = (4, 4, 4, 4),
        decoder_channels: Sequence[int] = (4, 256, 256, 8),
        *,
        fold: int = 5,
        input_noise: float = 0.001,
        latent_noise: float = 0.1,
    ):
        layers = len(encoder_channels)
        if not layers or len(decoder_channels) != layers or decoder_channels[0] != encoder_channels[-1]:
            raise UserError(
                f"autoencoder with encoder_channels={list(encoder_channels)}, "
                f"decoder_channels={list(decoder_channels)} is invalid: expected equally many, and the last number of "
                "the encoder as the first of the decoder. Set them under system.autoencoder"
            )
        if fold not in (3, 5) or max(input_noise, latent_noise) > 1:
            raise UserError(
                f"autoencoder with fold={fold}, input_noise={input_noise}, latent_noise={latent_noise} is invalid: "
                "expected a fold of 3 or 5, and shares of noise between 0 and 1. Set them under system.autoencoder"
            )
        padded_length = length = (num_params // fold**layers + 1) * fold**layers
        for _ in range(layers):
            length = (length + 3 - 2 * fold) // fold + 1
        if length < 2:  # an instance norm over one position is not defined
            raise UserError(
                f"{num_params} parameters are too few for an autoencoder with {layers} layers and fold={fold}. "
                "Set the release's smaller version, system.autoencoder.fold=3 "
                "system.autoencoder.encoder_channels=[2,2,2,2] system.autoencoder.decoder_channels=[2,64,64,8], "
                "or choose another system/autoencoder"
            )
        super().__init__(num_params, encoder_channels[-1] * length, input_noise=input_noise, latent_noise=latent_noise)
        self.padded_length, self.map_shape = padded_length, (encoder_channels[-1], length)
        self.encoder = nn.Sequential(*self._make_encoder_layers([1, *encoder_channels], fold))
        self.decoder = nn.Sequential(*self._make_decoder_layers([*decoder_channels, 1], fold))

    @staticmethod
    def _make_encoder_layers(widths: Sequence[int], fold: int) -> list[nn.Module]:
        layers: list[nn.Module] = []
        for index, (incoming, outgoing) in enumerate(pairwise(widths)):
            inner = outgoing if index == 0 else incoming
            layers += [
                *([nn.LeakyReLU()] if index else []),
                nn.InstanceNorm1d(incoming),
                nn.Conv1d(incoming, inner, fold, padding=1),
                nn.LeakyReLU(),
                nn.InstanceNorm1d(inner),
                nn.Conv1d(inner, outgoing, fold, stride=fold),
            ]
        return [*layers, nn.Tanh()]

    @staticmethod
    def _make_decoder_layers(widths: Sequence[int], fold: int) -> list[nn.Module]:
        layers: list[nn.Module] = []
        for index, (incoming, outgoing) in enumerate(pairwise(widths)):
            is_last = index == len(widths) - 2
            layers += [
                nn.LeakyReLU(),
                nn.InstanceNorm1d(incoming),
                nn.ConvTranspose1d(incoming, incoming, fold, stride=fold),
                nn.LeakyReLU(),
                nn.InstanceNorm1d(incoming),
                nn.Conv1d(incoming, outgoing, fold, padding=fold if is_last else fold - 1),
            ]
        return layers

    def encode(self, vectors_BD: Tensor) -> Tensor:
        """Map vectors (B, D) to latents (B, L) between −1 and 1."""
        padded_BD = F.pad(vectors_BD, (0, self.padded_length - self.num_params))
        latents_BCS: Tensor = self.encoder(padded_BD[:, None, :])
        return latents_BCS.flatten(1)

    def decode(self, latents_BL: Tensor) -> Tensor:
        """Map latents (B, L) to vectors (B, D)."""
        vectors_B1S: Tensor = self.decoder(latents_BL.unflatten(1, self.map_shape))
        return vectors_B1S[:, 0, : self.num_params]

    def forward(self, vectors_BD: Tensor) -> Tensor:
        """Reconstruct vectors, (B, D) to (B, D); noise is mixed in and the latent is clamped in training mode only."""
        if not self.training:
            return self.decode(self.encode(vectors_BD))
        latents_BL = self.encode(mix_with_noise(vectors_BD, self.input_noise))
        return self.decode(mix_with_noise(latents_BL, self.latent_noise).clamp(-1, 1))


class Release1Denoiser(nn.Module):
    """The denoiser `AE_CNN_bottleneck` of core/module/modules/unet.py in p-diff's first release.

    It reads a latent as one channel of length L. The rising blocks increase the channels, and the falling blocks
    decrease them. Each block has two convolutions, each after an instance norm over the L positions. The outputs of the
    rising blocks, except for the last, are added to the outputs of the falling blocks with the same number of channels.
    A learned vector of length L for each timestep is added to the input of every block.

    As in the release, the whole batch gets the vector of its first sample's timestep. In sampling, where all samples
    have one timestep, this changes nothing. In training, the network sees a wrong timestep for all samples but one.

    Args:
        latent_dim: L, at least 2.
        channels: Output channels of each rising block.
        kernel_size: An odd number.
        num_timesteps: T, the number of learned vectors.

    Raises:
        UserError: `channels` is empty, `kernel_size` is even, or `latent_dim` is below 2.
    """

    def __init__(
        self,
        latent_dim: int,
        channels: Sequence[int] = (64, 128, 256, 512),
        kernel_size: int = 3,
        num_timesteps: int = 1000,
    ):
        super().__init__()
        if not channels or kernel_size % 2 == 0 or latent_dim < 2:
            raise UserError(
                f"denoiser with channels={list(channels)}, kernel_size={kernel_size} for latents of {latent_dim} "
                "numbers is invalid: expected at least one channel, an odd kernel_size, and latents of at least 2 "
                "numbers. Set them under system.denoiser and system.autoencoder"
            )
        self.latent_dim, self.num_timesteps = latent_dim, num_timesteps
        rising = [self._make_block(a, b, b, kernel_size) for a, b in pairwise([1, *channels])]
        rising[0] = rising[0][1:]  # the latent itself passes no activation
        falling = [self._make_block(a, b, b, kernel_size) for a, b in pairwise(reversed(channels))]
        self.rising = nn.ModuleList(rising)
        self.falling = nn.ModuleList([*falling, self._make_block(channels[0], channels[0], 1, kernel_size)])
        self.embed_time = nn.Embedding(num_timesteps, latent_dim)

    @staticmethod
    def _make_block(incoming: int, inner: int, outgoing: int, kernel_size: int) -> nn.Sequential:
        return nn.Sequential(
            nn.LeakyReLU(),
            nn.InstanceNorm1d(incoming),
            nn.Conv1d(incoming, inner, kernel_size, padding=kernel_size // 2),
            nn.LeakyReLU(),
            nn.InstanceNorm1d(inner),
            nn.Conv1d(inner, outgoing, kernel_size, padding=kernel_size // 2),
        )

    def forward(self, x_BL: Tensor, t_B: Tensor) -> Tensor:
        """Predict the noise (B, L) in x_t (B, L).

        During training all samples get the timestep of the first sample in t (B,), as in the release.
        """
        # A held-out loss puts the layers of this network into eval mode, but not the network itself.
        seen_B = t_B[:1] if self.embed_time.training else t_B
        time_B1L = self.embed_time(seen_B.long())[:, None, :]
        features, skips = x_BL[:, None, :], []
        for block in self.rising:
            features = block(features + time_B1L)
            skips.append(features)
        skips.pop()  # the first falling block reads the deepest output
        for block in self.falling:
            features = block(features + time_B1L)
            if skips:
                features = features + skips.pop()
        return features[:, 0]


def mix_with_noise(values: Tensor, share: float) -> Tensor:
    """Return (1 − f) x + f ξ for ξ ~ N(0, I) and the share f of noise."""
    return (1 - share) * values + share * torch.randn_like(values)
