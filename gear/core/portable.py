"""The same bits on every x86-64 processor with AVX2: libraries held to one instruction set."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

THREADS = 2
# Libraries choose code by the processor, and each choice sums and rounds in another order. They
# read these variables once, when they are loaded.
VARIABLES = {
    "CUDA_VISIBLE_DEVICES": "",
    "OMP_NUM_THREADS": str(THREADS),
    "OMP_DYNAMIC": "FALSE",
    "MKL_DYNAMIC": "FALSE",
    "MKL_CBWR": "COMPATIBLE",  # MKL's AVX2 branch differs between vendors
    "ATEN_CPU_CAPABILITY": "avx2",  # PyTorch
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",  # numpy's and scipy's matrix library
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
}

KEPT: list[Any] = []


def hold_instruction_set() -> None:
    """Hold the numeric libraries of this process to AVX2 and two threads; call before torch loads.

    What it covers and what not: docs/decisions/portable-bits.md.
    """
    os.environ.update(VARIABLES)


def round_square_roots() -> None:
    """Let PyTorch round square roots on the CPU as IEEE 754 says, in this process from now on.

    PyTorch takes them from MKL, which starts from the processor's approximation of 1/sqrt(x):
    every sixth result is off in its last bit, and vendors differ in which.
    """
    import torch

    library = torch.library.Library("aten", "IMPL")
    KEPT.append(library)  # the kernels go when it does
    library.impl("sqrt", _square_root, "CPU")
    library.impl("sqrt_", lambda x: x.copy_(_square_root(x)), "CPU")
    library.impl("pow.Tensor_Scalar", _power, "CPU")


def _square_root(x: torch.Tensor) -> torch.Tensor:
    """Return the square root by numpy, whose code is the processor's exact instruction."""
    import numpy as np
    import torch

    wide = x.detach() if x.dtype in (torch.float32, torch.float64) else x.detach().float()
    with np.errstate(invalid="ignore"):
        root = torch.from_numpy(np.asarray(np.sqrt(wide.numpy())))
    return root if x.dtype == root.dtype or not x.is_floating_point() else root.to(x.dtype)


def _power(x: torch.Tensor, exponent: float) -> torch.Tensor:
    """Return a power; that of 0.5, by which DeepSpeed takes gradient norms, is a square root."""
    import torch

    if exponent == 0.5:
        return _square_root(x)
    into = torch.empty_like(x, dtype=torch.result_type(x, exponent))
    return torch.pow(x.detach(), exponent, out=into)  # PyTorch's own kernel
