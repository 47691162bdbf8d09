"""Denoisers ε_θ(x_t, t): networks that predict the noise in a noised latent.

Each maps latents x_t (B, L) and timesteps t (B,) to noise (B, L).

B batch · L numbers per latent · H hidden width.
"""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from core.networks.blocks import conv_block, sinusoidal_embedding
from core.runtime.errors import UserError

TIME_WIDTH = 256  # the sines and cosines that a learned timestep embedding of `ConvDenoiser` reads


class ConvDenoiser(nn.Module):
    """p-diff's U-shaped network of 1D convolutions, which reads a latent as one channel of length L.

    The number of channels rises and then falls, while the length stays L. The timestep embedding, also of length L, is
    added to the input of every layer. It consists of sines and cosines, or with `learn_time` of the outputs of a small
    MLP over `TIME_WIDTH` sines and cosines, as in p-diff's second release. Each falling layer except the first also
    adds the output of the rising layer with the same number of channels to its input (a skip connection).

    Args:
        latent_dim: L.
        channels: Output channels of each layer, for an even number of layers. They rise, fall in the reverse order, and
            end in 1.
        kernel_size: An odd number.
        learn_time: Whether the timestep embedding is learned.

    Raises:
        UserError: `channels` does not fall in the reverse order, or `kernel_size` is even.
    """

    def __init__(
        self,
        latent_dim: int,
        channels: Sequence[int] = (64, 128, 256, 512, 256, 128, 64, 1),
        kernel_size: int = 7,
        *,
        learn_time: bool = False,
    ):
        super().__init__()
        widths = [1, *channels]
        if not channels or widths != widths[::-1] or len(channels) % 2 or kernel_size % 2 == 0:
            raise UserError(
                f"denoiser with channels={list(channels)}, kernel_size={kernel_size} is invalid: expected channels "
                "that rise, fall in the reverse order and end in 1, such as [64, 128, 64, 1], and an odd kernel_size. "
                "Set them under system.denoiser"
            )
        self.latent_dim = latent_dim
        half = len(channels) // 2
        blocks = [conv_block(a, b, kernel_size) for a, b in pairwise(widths[:-1])]
        last = nn.Conv1d(widths[-2], 1, kernel_size, padding=kernel_size // 2)  # no activation, since ε is unbounded
        self.rising = nn.ModuleList(blocks[:half])
        self.falling = nn.ModuleList([*blocks[half:], last])
        self.embed_time = make_time_mlp(TIME_WIDTH, latent_dim) if learn_time else None

    def forward(self, x_BL: Tensor, t_B: Tensor) -> Tensor:
        """Predict the noise (B, L) in x_t (B, L), with one timestep per sample (B,)."""
        if self.embed_time is None:
            time_B1L = sinusoidal_embedding(t_B, self.latent_dim)[:, None, :]
        else:
            time_B1L = self.embed_time(sinusoidal_embedding(t_B, TIME_WIDTH))[:, None, :]
        features, skips = x_BL[:, None, :], []
        for layer in self.rising:
            features = layer(features + time_B1L)
            skips.append(features)
        skips.pop()  # the first falling layer gets the deepest output as its input anyway
        for index, layer in enumerate(self.falling):
            if index:
                features = features + skips.pop()
            features = layer(features + time_B1L)
        return features[:, 0]


class MLPDenoiser(nn.Module):
    """A residual MLP over the latent, for CPUs and small latents.

    It is much cheaper than `ConvDenoiser`. It predicts ε_θ(x_t, t) = x_t + correction(x_t, t), where the
    correction starts at 0. The latents of K checkpoints span far fewer than L directions, and along all other
    directions x_t consists of noise alone. A network that does not add x_t has to learn this identity itself, and its
    errors grow during sampling. On the digits task, the norm of its samples was 6 times the norm of the latents.

    Args:
        latent_dim: L.
        hidden_dim: H.
        num_blocks: The number of residual blocks.
        residual: Whether x_t is added to the output. False is meant for measuring the effect of this sum.

    Raises:
        UserError: `hidden_dim` is not an even number of at least 4, or `num_blocks` is negative.
    """

    def __init__(self, latent_dim: int, hidden_dim: int = 512, num_blocks: int = 3, *, residual: bool = True):
        super().__init__()
        if hidden_dim < 4 or hidden_dim % 2 or num_blocks < 0:
            raise UserError(
                f"MLPDenoiser with hidden_dim={hidden_dim}, num_blocks={num_blocks} is invalid: expected an even "
                "hidden_dim of at least 4 and at least 0 blocks. Set them under system.denoiser"
            )
        self.latent_dim, self.hidden_dim, self.residual = latent_dim, hidden_dim, residual
        self.embed_time = make_time_mlp(hidden_dim, hidden_dim)
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
        """Predict the noise (B, L) in x_t (B, L), with one timestep per sample (B,)."""
        time_BH = self.embed_time(sinusoidal_embedding(t_B, self.hidden_dim))
        hidden_BH = self.project_in(x_BL)
        for block in self.blocks:
            hidden_BH = hidden_BH + block(hidden_BH + time_BH)
        output_BL: Tensor = self.project_out(hidden_BH)
        return x_BL + output_BL if self.residual else output_BL


def make_time_mlp(in_width: int, out_width: int) -> nn.Sequential:
    """Return an MLP that maps the sines and cosines of a timestep (B, in_width) to its embedding (B, out_width)."""
    return nn.Sequential(nn.Linear(in_width, out_width), nn.SiLU(), nn.Linear(out_width, out_width))
