"""Settings of the C library's memory allocator."""

from __future__ import annotations

import ctypes

OPTIONS = {  # of glibc's malloc.h
    -3: 1 << 30,  # M_MMAP_THRESHOLD
    -1: 2**31 - 1,  # M_TRIM_THRESHOLD
    -2: 1 << 26,  # M_TOP_PAD
}


def keep_freed_memory() -> None:
    """Keep freed buffers in this process instead of returning each to the kernel.

    Makes feature extraction on CPU three to four times as fast (benchmarks/encoder.py). Does
    nothing with other C libraries than glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in OPTIONS.items():
            mallopt(option, value)
