"""Denoisers ε_θ(x_t, t) over latents: both map (B, L) and (B,) to (B, L).

B batch · L numbers in one latent · H hidden width.
"""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from core.networks.blocks import conv_block, sinusoidal_embedding
from core.runtime.errors import UserError


class ConvDenoiser(nn.Module):
    """The paper's U-shape of 1D convolutions over the latent, read as one channel of length L.

    Channels rise and fall, the length stays; the timestep embedding, as long as the latent, is added before every
    layer, and each falling layer also receives the output of its rising twin.

    Args:
        latent_dim: L.
        channels: An even number of rising then falling widths, without the input's single channel; the last is 1.
        kernel_size: An odd number.

    Raises:
        UserError: The channels do not mirror each other, or the kernel is even.
    """

    def __init__(
        self, latent_dim: int, channels: Sequence[int] = (64, 128, 256, 512, 256, 128, 64, 1), kernel_size: int = 7
    ):
        super().__init__()
        widths = [1, *channels]
        if not channels or widths != widths[::-1] or len(channels) % 2 or kernel_size % 2 == 0:
            raise UserError(
                f"denoiser with channels={list(channels)}, kernel_size={kernel_size}: give channels that rise and fall "
                "alike and end in 1, for example [64, 128, 64, 1], and an odd kernel"
            )
        self.latent_dim = latent_dim
        half = len(channels) // 2
        blocks = [conv_block(a, b, kernel_size) for a, b in pairwise(widths[:-1])]
        last = nn.Conv1d(widths[-2], 1, kernel_size, padding=kernel_size // 2)  # ε is unbounded: no activation
        self.rising = nn.ModuleList(blocks[:half])
        self.falling = nn.ModuleList([*blocks[half:], last])

    def forward(self, x_BL: Tensor, t_B: Tensor) -> Tensor:
        """Predict the noise in x_t; every sample has its own timestep."""
        time_B1L = sinusoidal_embedding(t_B, self.latent_dim)[:, None, :]
        features, skips = x_BL[:, None, :], []
        for layer in self.rising:
            features = layer(features + time_B1L)
            skips.append(features)
        skips.pop()  # the bottom is the input of the first falling layer itself
        for index, layer in enumerate(self.falling):
            if index:
                features = features + skips.pop()
            features = layer(features + time_B1L)
        return features[:, 0]


class MLPDenoiser(nn.Module):
    """A residual MLP over the latent: a fraction of the paper denoiser's cost, for CPUs and small latents.

    It predicts ε as x_t plus a correction. The latents of K checkpoints span far fewer directions than L; in all the
    others x_t is nothing but scaled noise, and a network that has to learn this identity lets errors grow there
    during sampling (samples 6 times as long as the latents they imitate, on digits, without the sum).

    Args:
        latent_dim: L.
        hidden_dim: H.
        num_blocks: The number of residual blocks.
    """

    def __init__(self, latent_dim: int, hidden_dim: int = 512, num_blocks: int = 3):
        super().__init__()
        self.latent_dim, self.hidden_dim = latent_dim, hidden_dim
        self.embed_time = nn.Sequential(nn.Linear(hidden_dim, hidden_dim), nn.SiLU(), nn.Linear(hidden_dim, hidden_dim))
        self.project_in = nn.Linear(latent_dim, hidden_dim)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(hidden_dim),
                nn.Linear(hidden_dim, hidden_dim),
                nn.SiLU(),
                nn.Linear(hidden_dim, hidden_dim),
            )
            for _ in range(num_blocks)
        )
        last = nn.Linear(hidden_dim, latent_dim)
        self.project_out = nn.Sequential(nn.LayerNorm(hidden_dim), last)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, x_BL: Tensor, t_B: Tensor) -> Tensor:
        """Predict the noise in x_t; every sample has its own timestep."""
        time_BH = self.embed_time(sinusoidal_embedding(t_B, self.hidden_dim))
        hidden_BH = self.project_in(x_BL)
        for block in self.blocks:
            hidden_BH = hidden_BH + block(hidden_BH + time_BH)
        return x_BL + self.project_out(hidden_BH)
