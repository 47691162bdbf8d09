"""Pieces that several networks share.

B batch · C channels · L length of a latent or feature map · E embedding width.
"""

import math

import torch
from torch import Tensor, nn


def sinusoidal_embedding(t_B: Tensor, width: int) -> Tensor:
    """Embed integer timesteps as (B, width) sines and cosines.  Vaswani et al. 2017, §3.5; Ho et al. 2020, App. B."""
    half = (width + 1) // 2
    frequencies = torch.exp(-math.log(10_000) * torch.arange(half, device=t_B.device) / half)
    angles = t_B[:, None].float() * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :width]


def conv_block(in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1) -> nn.Sequential:
    """Convolution, batch normalization, ELU: (B, C, L) -> (B, C', L / stride)."""
    conv = nn.Conv1d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2)
    return nn.Sequential(conv, nn.BatchNorm1d(out_channels), nn.ELU())


def upsampling_block(in_channels: int, out_channels: int, kernel_size: int) -> nn.Sequential:
    """Transposed convolution that doubles the length, batch normalization, ELU: (B, C, L) -> (B, C', 2L)."""
    conv = nn.ConvTranspose1d(in_channels, out_channels, kernel_size, 2, padding=kernel_size // 2, output_padding=1)
    return nn.Sequential(conv, nn.BatchNorm1d(out_channels), nn.ELU())
