"""Convolutional encoder and decoder of the VQ and IBQ tokenizers.

Module names follow LlamaGen's checkpoints. The taming layout of IBQ is the same network under other
names, which `public_layouts.py` converts.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from gear.nn.attention import attend


def groups(channels: int) -> int:
    """Return the number of groups of a group norm: at most 32, of at least four channels each.

    Groups of one channel would make an instance norm, which erases the mean of each channel and so
    the colour of flat areas.
    """
    return math.gcd(32, channels // 4)


def norm(channels: int) -> nn.GroupNorm:
    """Return the group norm that every backbone uses."""
    return nn.GroupNorm(groups(channels), channels, eps=1e-6)


class Residual(nn.Module):
    """Two norm-swish-conv layers, with a 1x1 shortcut if the width changes."""

    compiles_alone = True

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = norm(inner), nn.Conv2d(inner, outer, 3, padding=1)
        self.norm2, self.conv2 = norm(outer), nn.Conv2d(outer, outer, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(inner, outer, 1) if inner != outer else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        result: torch.Tensor = self.nin_shortcut(x) + self.conv2(F.silu(self.norm2(h)))
        return result


class SpatialAttention(nn.Module):
    """One-head self-attention over positions."""

    compiles_alone = True

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = norm(channels)
        self.q, self.k, self.v = (nn.Conv2d(channels, channels, 1) for _ in range(3))
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm(x)
        q, k, v = (conv(h).flatten(2).transpose(1, 2) for conv in (self.q, self.k, self.v))
        mixed = attend(q, k, v).transpose(1, 2).reshape(x.shape)
        result: torch.Tensor = x + self.proj_out(mixed)
        return result


class Downsample(nn.Module):
    """3x3 convolution of stride 2, padded on the right and bottom only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return result


class Upsample(nn.Module):
    """Nearest-neighbour upsampling by 2, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return result


class Level(nn.Module):
    """Residual blocks at one resolution, with attention if asked for, then a resampling or none."""

    def __init__(self, inner: int, outer: int, blocks: int, *, attend: bool) -> None:
        super().__init__()
        self.res = nn.ModuleList(Residual(inner if i == 0 else outer, outer) for i in range(blocks))
        self.attn = nn.ModuleList(SpatialAttention(outer) for _ in range(blocks if attend else 0))
        self.downsample: nn.Module | None = None
        self.upsample: nn.Module | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for number, block in enumerate(self.res):
            x = block(x)
            if self.attn:
                x = self.attn[number](x)
        change = self.downsample or self.upsample
        return x if change is None else change(x)


def middle(channels: int) -> nn.ModuleList:
    """Return the middle of the network: residual block, attention, residual block."""
    return nn.ModuleList(
        [Residual(channels, channels), SpatialAttention(channels), Residual(channels, channels)]
    )


class Encoder(nn.Module):
    """Images (B, 3, H, W) to latents (B, z, H/f, W/f)."""

    def __init__(
        self, base: int, multipliers: tuple[int, ...], blocks: int, z_channels: int
    ) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, base, 3, padding=1)
        widths = [base, *(base * m for m in multipliers)]
        self.conv_blocks = nn.ModuleList()
        for number in range(len(multipliers)):
            last = number == len(multipliers) - 1
            level = Level(widths[number], widths[number + 1], blocks, attend=last)
            if not last:
                level.downsample = Downsample(widths[number + 1])
            self.conv_blocks.append(level)
        self.mid = middle(widths[-1])
        self.norm_out, self.conv_out = (
            norm(widths[-1]),
            nn.Conv2d(widths[-1], z_channels, 3, padding=1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv_in(x)
        for level in self.conv_blocks:
            x = level(x)
        for block in self.mid:
            x = block(x)
        result: torch.Tensor = self.conv_out(F.silu(self.norm_out(x)))
        return result


class Decoder(nn.Module):
    """Latents (B, z, h, w) to images (B, 3, h f, w f).

    It has one residual block more per level than the encoder.
    """

    def __init__(
        self, base: int, multipliers: tuple[int, ...], blocks: int, z_channels: int
    ) -> None:
        super().__init__()
        widths = [base * m for m in reversed(multipliers)]
        self.conv_in = nn.Conv2d(z_channels, widths[0], 3, padding=1)
        self.mid = middle(widths[0])
        self.conv_blocks = nn.ModuleList()
        for number, width in enumerate(widths):
            level = Level(widths[max(0, number - 1)], width, blocks + 1, attend=number == 0)
            if number < len(widths) - 1:
                level.upsample = Upsample(width)
            self.conv_blocks.append(level)
        self.norm_out, self.conv_out = norm(widths[-1]), nn.Conv2d(widths[-1], 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv_in(x)
        for block in self.mid:
            x = block(x)
        for level in self.conv_blocks:
            x = level(x)
        result: torch.Tensor = self.conv_out(F.silu(self.norm_out(x)))
        return result
