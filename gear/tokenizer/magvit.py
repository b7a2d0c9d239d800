"""MAGVIT-2 encoder and decoder of the LFQ tokenizer.

Module names follow Open-MAGVIT2's checkpoints.

There is no attention. Each level of the decoder has a group norm whose scale and shift depend on
the standard deviation and mean of the latent over space, so that global statistics need not pass
through the convolutions.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from gear.tokenizer.convnet import groups, norm


class PlainResidual(nn.Module):
    """Two norm-swish-conv layers without biases, with a 1x1 shortcut if the width changes."""

    compiles_alone = True

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = norm(inner), nn.Conv2d(inner, outer, 3, padding=1, bias=False)
        self.norm2, self.conv2 = norm(outer), nn.Conv2d(outer, outer, 3, padding=1, bias=False)
        self.nin_shortcut = (
            nn.Conv2d(inner, outer, 1, bias=False) if inner != outer else nn.Identity()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        result: torch.Tensor = self.nin_shortcut(x) + self.conv2(F.silu(self.norm2(h)))
        return result


class AdaptiveNorm(nn.Module):
    """Group norm; scale and shift are linear in the latent's spatial deviation and mean."""

    def __init__(self, z_channels: int, channels: int) -> None:
        super().__init__()
        self.gn = nn.GroupNorm(groups(channels), channels, eps=1e-6, affine=False)
        self.gamma, self.beta = nn.Linear(z_channels, channels), nn.Linear(z_channels, channels)

    def forward(self, x: torch.Tensor, latent: torch.Tensor) -> torch.Tensor:
        flat = latent.float().flatten(2)
        scale = self.gamma((flat.var(dim=-1) + 1e-6).sqrt())
        result: torch.Tensor = (
            scale[..., None, None] * self.gn(x) + self.beta(flat.mean(dim=-1))[..., None, None]
        )
        return result


class DepthToSpace(nn.Module):
    """Upsampling by 2: a convolution to four times the channels, one quarter per corner of 2x2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 4 * channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        corners = self.conv1(x).unflatten(1, (2, 2, -1))  # B, row, column, C, h, w
        result: torch.Tensor = corners.permute(0, 3, 4, 1, 5, 2).flatten(4, 5).flatten(2, 3)
        return result


class Level(nn.Module):
    """Residual blocks at one resolution, then a resampling or none."""

    def __init__(self, inner: int, outer: int, blocks: int) -> None:
        super().__init__()
        self.downsample: nn.Module = nn.Identity()
        self.upsample: nn.Module = nn.Identity()
        self.block = nn.Sequential(
            *(PlainResidual(inner if i == 0 else outer, outer) for i in range(blocks))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.upsample(self.downsample(self.block(x)))
        return result


class Encoder(nn.Module):
    """Images (B, 3, H, W) to latents (B, z, H/f, W/f)."""

    def __init__(
        self, base: int, multipliers: tuple[int, ...], blocks: int, z_channels: int
    ) -> None:
        super().__init__()
        widths = [base, *(base * m for m in multipliers)]
        self.conv_in = nn.Conv2d(3, base, 3, padding=1, bias=False)
        self.down = nn.ModuleList(Level(inner, outer, blocks) for inner, outer in pairwise(widths))
        for level, width in zip(self.down[:-1], widths[1:], strict=False):
            level.downsample = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.mid_block = nn.Sequential(
            *(PlainResidual(widths[-1], widths[-1]) for _ in range(blocks))
        )
        self.norm_out, self.conv_out = norm(widths[-1]), nn.Conv2d(widths[-1], z_channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        result: torch.Tensor = self.conv_out(F.silu(self.norm_out(self.mid_block(x))))
        return result


class Decoder(nn.Module):
    """Latents (B, z, h, w) to images (B, 3, h f, w f).

    Level i of `up` and `adaptive` mirrors level i of the encoder's `down`.
    """

    def __init__(
        self, base: int, multipliers: tuple[int, ...], blocks: int, z_channels: int
    ) -> None:
        super().__init__()
        widths = [base * m for m in multipliers]
        entering = [*widths[1:], widths[-1]]  # channels that reach level i from the one below
        self.conv_in = nn.Conv2d(z_channels, widths[-1], 3, padding=1)
        self.mid_block = nn.Sequential(
            *(PlainResidual(widths[-1], widths[-1]) for _ in range(blocks))
        )
        self.up = nn.ModuleList(
            Level(inner, outer, blocks) for inner, outer in zip(entering, widths, strict=True)
        )
        for level, width in zip(self.up[1:], widths[1:], strict=True):
            level.upsample = DepthToSpace(width)
        self.adaptive = nn.ModuleList(AdaptiveNorm(z_channels, width) for width in entering)
        self.norm_out, self.conv_out = norm(widths[0]), nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        x = self.mid_block(self.conv_in(z))
        for level, adapt in zip(reversed(self.up), reversed(self.adaptive), strict=True):
            x = level(adapt(x, z))
        result: torch.Tensor = self.conv_out(F.silu(self.norm_out(x)))
        return result
