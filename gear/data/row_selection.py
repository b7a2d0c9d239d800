"""Batches and evenly spaced selections of rows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

BATCH = 128


def batches(count: int, size: int = BATCH) -> Iterator[slice]:
    """Return slices of at most `size` over `count` rows.

    >>> list(batches(5, 2))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def evenly_spaced(count: int, most: int) -> np.ndarray:
    """Return the positions of all `count` rows, or of `most` evenly spaced ones, int64.

    >>> evenly_spaced(9, most=3).tolist()
    [0, 4, 8]
    """
    return np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)


def round_robin(count: int, rows: int) -> np.ndarray:
    """Return `count` of `rows` positions, int64: evenly spaced, or repeated in turn if too few.

    >>> round_robin(2, rows=3).tolist(), round_robin(5, rows=3).tolist()
    ([0, 2], [0, 1, 2, 0, 1])
    """
    return evenly_spaced(rows, count) if count < rows else np.arange(count, dtype=np.int64) % rows
