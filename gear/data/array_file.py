"""Create .npy files larger than memory, to be written part by part."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike


def new_array_file(file: Path, dtype: DTypeLike, shape: tuple[int, ...]) -> np.memmap:
    """Create a .npy file of zeros and return it as a writable memory map.

    Disk space is reserved at once (but on macOS), because a process that writes to a memory map on
    a full disk is killed.

    Raises:
        OSError: if there is not enough space.
    """
    array = np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=shape)
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with file.open("r+b") as opened:
            size = os.fstat(opened.fileno()).st_size
            os.posix_fallocate(opened.fileno(), 0, size)
    return array
