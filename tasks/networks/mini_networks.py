"""Networks that are small enough to generate all of their parameters, registered with timm at the end of this file.

    ConvNet-mini 24,262 · MLP-mini 66,970 · ResNet-mini 25,138 · ViT-mini 80,714 · ConvNeXt-mini 74,970 ·
    medium CNN 10,853

These are the numbers of parameters in p-diff's paper and code, for 10 classes and images of 3×64×64 (the medium CNN:
3×32×32). The published descriptions leave some details open, such as strides and the positions of normalization layers.
These details were inferred from the published numbers of parameters, and the docstring of each class names them. All
networks use LayerNorm except the medium CNN, which has no normalization. No network has running statistics.

B images · C color channels · c feature channels · S image size in pixels · P patches of one image · H attention heads.
"""

from typing import Any

import torch
import torch.nn.functional as F
from timm.models import build_model_with_cfg, register_model
from timm.models.convnext import ConvNeXt
from torch import Tensor, nn


def choose_patch_size(image_size: int) -> int:
    """Return a patch size of at least 2 pixels that divides a side into at most 8 patches."""
    return max(2, -(-image_size // 8))


def choose_stem_stride(image_size: int) -> int:
    """Return stride 2 for the paper's 64 pixels, and 1 up to 32 pixels, which keeps the number of parameters."""
    return 2 if image_size > 32 else 1


class Head(nn.Sequential):
    """Two linear layers with 16 hidden units (20 in the medium CNN)."""

    def __init__(self, num_features: int, num_classes: int, num_hidden: int = 16):
        super().__init__(nn.Linear(num_features, num_hidden), nn.ReLU(), nn.Linear(num_hidden, num_classes))


class ConvStage(nn.Module):
    """Convolution, LayerNorm over channels and pixels, ReLU, and a max-pool that halves the size.

    Args:
        in_channels: The number of channels of the input.
        out_channels: The number of channels of the output.
        size: The height and width of the normalized maps, in pixels.
        kernel_size: The kernel size of the convolution, in pixels.
        stride: The stride of the convolution, in pixels.
    """

    def __init__(self, in_channels: int, out_channels: int, size: int, *, kernel_size: int = 3, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2)
        self.norm = nn.LayerNorm([out_channels, size, size])

    def forward(self, maps_BcSS: Tensor) -> Tensor:
        """Return maps (B, out_channels, size // 2, size // 2)."""
        return F.max_pool2d(F.relu(self.norm(self.conv(maps_BcSS))), 2)


class ConvNetMini(nn.Module):
    """Convolutions 3-8 (7×7), 8-8 and 8-4 (3×3), then linear layers 64-16-10.

    Inferred from the number of parameters: the normalized maps are 8×32×32, 8×16×16 and 4×8×8, so the first convolution
    has stride 2.
    """

    def __init__(self, in_chans: int = 3, num_classes: int = 10, img_size: int = 64):
        super().__init__()
        stride = choose_stem_stride(img_size)
        size = -(-img_size // stride)
        self.stages = nn.Sequential(
            ConvStage(in_chans, 8, size, kernel_size=7, stride=stride),
            ConvStage(8, 8, size // 2),
            ConvStage(8, 4, size // 4),
        )
        self.head = Head(4 * (size // 8) ** 2, num_classes)

    def forward(self, images_BCSS: Tensor) -> Tensor:
        """Return logits (B, classes)."""
        return self.head(self.stages(images_BCSS).flatten(1))


class MLPMini(nn.Module):
    """Linear layers 1024-64-16-10, with a LayerNorm before each ReLU.

    An image has 12,288 numbers, but the published network has 1,024 inputs. Our choice is to average over the colors
    and over 2×2 pixels, which leaves 32×32 numbers. Images of at most 32 pixels are averaged over the colors only.
    """

    def __init__(self, in_chans: int = 3, num_classes: int = 10, img_size: int = 64):
        super().__init__()
        size = min(img_size, 32)
        self.reduce = nn.AdaptiveAvgPool3d((1, size, size))
        self.layers = nn.Sequential(
            nn.Linear(size**2, 64), nn.LayerNorm(64), nn.ReLU(), nn.Linear(64, 16), nn.LayerNorm(16), nn.ReLU()
        )
        self.head = nn.Linear(16, num_classes)

    def forward(self, images_BCSS: Tensor) -> Tensor:
        """Return logits (B, classes)."""
        return self.head(self.layers(self.reduce(images_BCSS).flatten(1)))


class Bottleneck(nn.Module):
    """Two 3×3 convolutions with a shortcut around them, LayerNorm over channels and pixels, and a 2×2 max-pool."""

    def __init__(self, channels: int, hidden_channels: int, size: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, hidden_channels, 3, padding=1)
        self.conv2 = nn.Conv2d(hidden_channels, channels, 3, padding=1)
        self.norm = nn.LayerNorm([channels, size, size])

    def forward(self, maps_BcSS: Tensor) -> Tensor:
        """Return maps (B, channels, size // 2, size // 2)."""
        change_BcSS = self.conv2(F.relu(self.conv1(maps_BcSS)))
        return F.max_pool2d(F.relu(self.norm(maps_BcSS + change_BcSS)), 2)


class ResNetMini(nn.Module):
    """Convolution 3-8 (3×3), two residual blocks 8-4-8, then linear layers 128-16-10.

    Inferred from the number of parameters: both convolutions of a block are 3×3, and there is one LayerNorm after the
    first convolution (8×32×32) and one in each block (8×16×16 and 8×8×8).
    """

    def __init__(self, in_chans: int = 3, num_classes: int = 10, img_size: int = 64):
        super().__init__()
        stride = choose_stem_stride(img_size)
        size = -(-img_size // stride)
        self.stages = nn.Sequential(
            ConvStage(in_chans, 8, size, stride=stride), Bottleneck(8, 4, size // 2), Bottleneck(8, 4, size // 4)
        )
        self.head = Head(8 * (size // 8) ** 2, num_classes)

    def forward(self, images_BCSS: Tensor) -> Tensor:
        """Return logits (B, classes)."""
        return self.head(self.stages(images_BCSS).flatten(1))


class Attention(nn.Module):
    """Self-attention without biases, with `num_heads * head_dim` features that may be fewer than the tokens' `dim`."""

    def __init__(self, dim: int, num_heads: int, head_dim: int):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * num_heads * head_dim, bias=False)
        self.out = nn.Linear(num_heads * head_dim, dim, bias=False)

    def forward(self, tokens_BPc: Tensor) -> Tensor:
        """Return tokens (B, P, dim)."""
        qkv = self.qkv(tokens_BPc).unflatten(2, (3, self.num_heads, -1))  # (B, P, 3, H, c)
        q_BHPc, k_BHPc, v_BHPc = qkv.permute(2, 0, 3, 1, 4)
        mixed_BHPc = F.scaled_dot_product_attention(q_BHPc, k_BHPc, v_BHPc)
        return self.out(mixed_BHPc.transpose(1, 2).flatten(2))


class TransformerBlock(nn.Module):
    """Attention, then two linear layers; both parts have a LayerNorm before them and a shortcut around them."""

    def __init__(self, dim: int, *, num_heads: int, head_dim: int, hidden_dim: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = Attention(dim, num_heads, head_dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, dim))

    def forward(self, tokens_BPc: Tensor) -> Tensor:
        """Return tokens (B, P, dim)."""
        tokens_BPc = tokens_BPc + self.attention(self.norm1(tokens_BPc))
        return tokens_BPc + self.mlp(self.norm2(tokens_BPc))


class ViTMini(nn.Module):
    """64 tokens of 64 features, and 4 blocks with 4 heads of 8 features and 64 hidden units.

    Inferred from the number of parameters: it is a "simple ViT" (Beyer et al. 2022, arXiv 2205.01580). Patches are
    normalized before and after their embedding, positions are sines and cosines, attention has no biases, and the head
    reads the mean token.
    """

    def __init__(self, in_chans: int = 3, num_classes: int = 10, img_size: int = 64):
        super().__init__()
        self.patch_size = choose_patch_size(img_size)
        patch_dim, dim = in_chans * self.patch_size**2, 64
        self.embedding = nn.Sequential(nn.LayerNorm(patch_dim), nn.Linear(patch_dim, dim), nn.LayerNorm(dim))
        self.register_buffer("position_Pc", encode_positions(img_size // self.patch_size, dim), persistent=False)
        self.blocks = nn.Sequential(*(TransformerBlock(dim, num_heads=4, head_dim=8, hidden_dim=64) for _ in range(4)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, num_classes)

    def forward(self, images_BCSS: Tensor) -> Tensor:
        """Return logits (B, classes)."""
        patches_BPc = F.unfold(images_BCSS, self.patch_size, stride=self.patch_size).transpose(1, 2)
        tokens_BPc = self.blocks(self.embedding(patches_BPc) + self.position_Pc)
        return self.head(self.norm(tokens_BPc).mean(dim=1))


def encode_positions(side: int, dim: int) -> Tensor:
    """Return sines and cosines of the column and row of side × side patches, (P, dim).  Beyer et al. 2022, §2."""
    frequencies = 10_000 ** -torch.linspace(0, 1, dim // 4)
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    angles = [place.flatten()[:, None] * frequencies for place in (columns, rows)]
    return torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=1)


class CNNMedium(nn.Module):
    """Convolutions 3-16-32-15 (3×3), then linear layers 60-20-10, without normalization.

    This is the 3-layer CNN of Schürholt et al. (2022, arXiv 2209.14733). Inferred from the number of parameters: the
    convolutions have no padding, so that 32×32 pixels end in 2×2. Images of less than 22 pixels would shrink to
    nothing, so the convolutions then have padding.
    """

    def __init__(self, in_chans: int = 3, num_classes: int = 10, img_size: int = 32):
        super().__init__()
        padding, size = int(img_size < 22), img_size
        for _ in range(3):
            size = (size - 2 + 2 * padding) // 2
        self.convs = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=padding) for before, after in [(in_chans, 16), (16, 32), (32, 15)]
        )
        self.head = Head(15 * size**2, num_classes, num_hidden=20)

    def forward(self, images_BCSS: Tensor) -> Tensor:
        """Return logits (B, classes)."""
        maps_BcSS = images_BCSS
        for conv in self.convs:
            maps_BcSS = F.relu(F.max_pool2d(conv(maps_BcSS), 2))
        return self.head(maps_BcSS.flatten(1))


def _default_cfg(image_size: int) -> dict[str, object]:
    """Return timm's configuration of a network with a fixed image size and without published weights."""
    return {"num_classes": 10, "input_size": (3, image_size, image_size), "fixed_input_size": True}


default_cfgs = {  # `register_model` of timm reads the variable of this name
    **{name: _default_cfg(64) for name in ("convnet_mini", "mlp_mini", "resnet_mini", "vit_mini", "convnext_mini")},
    "cnn_medium": _default_cfg(32),
}


@register_model
def convnet_mini(pretrained: bool = False, img_size: int = 64, **options: Any) -> nn.Module:
    """Return ConvNet-mini for images of `img_size` pixels."""
    return build_model_with_cfg(ConvNetMini, "convnet_mini", pretrained, img_size=img_size, **options)


@register_model
def mlp_mini(pretrained: bool = False, img_size: int = 64, **options: Any) -> nn.Module:
    """Return MLP-mini for images of `img_size` pixels."""
    return build_model_with_cfg(MLPMini, "mlp_mini", pretrained, img_size=img_size, **options)


@register_model
def resnet_mini(pretrained: bool = False, img_size: int = 64, **options: Any) -> nn.Module:
    """Return ResNet-mini for images of `img_size` pixels."""
    return build_model_with_cfg(ResNetMini, "resnet_mini", pretrained, img_size=img_size, **options)


@register_model
def vit_mini(pretrained: bool = False, img_size: int = 64, **options: Any) -> nn.Module:
    """Return ViT-mini for images of `img_size` pixels."""
    return build_model_with_cfg(ViTMini, "vit_mini", pretrained, img_size=img_size, **options)


@register_model
def convnext_mini(pretrained: bool = False, img_size: int = 64, **options: Any) -> nn.Module:
    """Return ConvNeXt-mini: timm's ConvNeXt with depths 1-2-2-2 and widths 16-32-32-32.

    Depths and widths were inferred from the published number of parameters. Patches are 4×4 pixels, and smaller for
    images of less than 64 pixels, so that the last stage has at least 2×2 positions.
    """
    arguments = {
        "depths": (1, 2, 2, 2),
        "dims": (16, 32, 32, 32),
        "patch_size": min(4, max(1, img_size // 16)),
        **options,
    }
    return build_model_with_cfg(ConvNeXt, "convnext_mini", pretrained, kwargs_filter=("img_size",), **arguments)


@register_model
def cnn_medium(pretrained: bool = False, img_size: int = 32, **options: Any) -> nn.Module:
    """Return the medium CNN for images of `img_size` pixels."""
    return build_model_with_cfg(CNNMedium, "cnn_medium", pretrained, img_size=img_size, **options)
