"""TODO."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import nn

ENCODER_BATCH = 32  # at 128 px, what still fits a core's cache


class Pixels(Protocol):
    """Images (N, H, W, 3) uint8 read a slice at a time: an array, or a split of shards too large for memory."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> np.ndarray: ...


def to_tensor(pixels: np.ndarray, model: nn.Module) -> torch.Tensor:
    """(N, H, W, 3) uint8 to (N, 3, H, W) in [-1, 1] on the model's device."""
    device = next(model.parameters()).device
    return (
        torch.from_numpy(pixels)
        .to(device)
        .permute(0, 3, 1, 2)
        .float()
        .div(127.5)
        .sub(1.0)
        .contiguous()
    )


def to_pixels(images: torch.Tensor) -> np.ndarray:
    """[-1, 1] to uint8, rounded to nearest; (N, H, W, 3)."""
    return (
        images.float()
        .clamp(-1, 1)
        .add(1.0)
        .mul(127.5)
        .round()
        .to(torch.uint8)
        .permute(0, 2, 3, 1)
        .contiguous()
        .cpu()
        .numpy()
    )
