"""The perceptual loss over the packaged encoder's early features. It is not LPIPS and is not called so."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

NAME = "perceptual(efficientnet-lite0 early)"


class PerceptualLoss(nn.Module):
    """Mean squared distance of channel-normalised feature maps, summed over the encoder's early levels."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.early: Callable[[torch.Tensor], list[torch.Tensor]] = encoder.early  # type: ignore[assignment]

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Distance of images (B, 3, H, W) in [-1, 1]; gradients reach `x` only."""
        with torch.no_grad():
            wanted = self.early(y)
        pairs = zip(self.early(x), wanted, strict=True)
        return torch.stack([(unit(a) - unit(b)).square().sum(1).mean() for a, b in pairs]).sum()


def unit(x_BCHW: torch.Tensor) -> torch.Tensor:
    """Each position's channels scaled to length 1, in fp32."""
    return F.normalize(x_BCHW.float(), dim=1, eps=1e-6)
