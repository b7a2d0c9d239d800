"""Convert images between uint8 pixels and tensors."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import nn

ENCODER_BATCH = 32  # at 128 pixels, fits into a core's cache


class Pixels(Protocol):
    """Images (N, H, W, 3) uint8 that are read in slices: an array, or a split of shards."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> np.ndarray: ...


def to_tensor(pixels: np.ndarray, model: nn.Module) -> torch.Tensor:
    """Return pixels (N, H, W, 3) uint8 as (N, 3, H, W) fp32 in [-1, 1] on the model's device."""
    device = next(model.parameters()).device
    images = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2)
    return images.float().div(127.5).sub(1.0).contiguous()


def to_pixels(images: torch.Tensor) -> np.ndarray:
    """Return images (N, 3, H, W), clamped to [-1, 1], as (N, H, W, 3) uint8, rounded to nearest."""
    pixels = images.float().clamp(-1, 1).add(1.0).mul(127.5).round().to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
