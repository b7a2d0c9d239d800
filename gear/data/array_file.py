"""Arrays that are written to disk part by part, larger than memory."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike


def new_array_file(file: Path, dtype: DTypeLike, shape: tuple[int, ...]) -> np.memmap:
    """Return a new .npy file of zeros as an array to write into.

    Its space is reserved at once: a disk that fills up under a memory map would kill the process.

    Raises:
        OSError: if there is no space.
    """
    array = np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=shape)
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with file.open("r+b") as opened:
            size = os.fstat(opened.fileno()).st_size
            os.posix_fallocate(opened.fileno(), 0, size)
    return array
