"""Make random test images."""

from __future__ import annotations

import numpy as np

N = 12


def pictures(seed: int, darker: int) -> np.ndarray:
    """Return N blotchy images, (N, 16, 16, 3) uint8."""
    coarse = np.random.default_rng(seed).integers(0, 256 // darker, (N, 4, 4, 3), dtype=np.uint8)
    return coarse.repeat(4, axis=1).repeat(4, axis=2)


def blotches(seed: int, count: int, size: int) -> np.ndarray:
    """Return different images of random 4 x 4 blotches, (count, size, size, 3) uint8."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    return coarse.repeat(size // 4, axis=1).repeat(size // 4, axis=2)
