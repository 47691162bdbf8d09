"""Building blocks shared by the autoencoders and the denoisers.

B batch · C channels · L length of a latent or of a feature map.
"""

import math

import torch
from torch import Tensor, nn


def sinusoidal_embedding(t_B: Tensor, width: int) -> Tensor:
    """Embed timesteps (B,) as sines and cosines (B, width).

    With h = ⌈width / 2⌉ and ω_i = 10000^(−i / h), a timestep t becomes the first `width` of the 2h numbers
    sin(ω_0 t), …, sin(ω_{h−1} t), cos(ω_0 t), …, cos(ω_{h−1} t).  Vaswani et al. 2017, §3.5; Ho et al. 2020, App. B.
    """
    half = (width + 1) // 2
    frequencies = torch.exp(-math.log(10_000) * torch.arange(half, device=t_B.device) / half)
    angles = t_B[:, None].float() * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :width]


def conv_block(
    in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, activation: type[nn.Module] = nn.ELU
) -> nn.Sequential:
    """Return a convolution, batch norm and an activation: (B, C, L) -> (B, C', ⌈L / stride⌉) for an odd kernel."""
    conv = nn.Conv1d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2)
    return nn.Sequential(conv, nn.BatchNorm1d(out_channels), activation())


def upsampling_block(in_channels: int, out_channels: int, kernel_size: int) -> nn.Sequential:
    """Return a transposed convolution, batch normalization and ELU: (B, C, L) -> (B, C', 2L) for an odd kernel."""
    conv = nn.ConvTranspose1d(in_channels, out_channels, kernel_size, 2, padding=kernel_size // 2, output_padding=1)
    return nn.Sequential(conv, nn.BatchNorm1d(out_channels), nn.ELU())
