"""Restrict libraries to AVX2, for bitwise equal results on every x86-64 CPU that has it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

THREADS = 2
# Libraries select kernels by the CPU, and kernels differ in the order of sums and in rounding.
# They read these variables once, when they are loaded.
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
    """Restrict numeric libraries in this process to AVX2, two threads and no GPU.

    Call it before torch is imported. docs/decisions/portable-bits.md says what it does not cover.
    """
    os.environ.update(VARIABLES)


def round_square_roots() -> None:
    """Make PyTorch's CPU square roots correctly rounded (IEEE 754) for the rest of this process.

    PyTorch takes them from MKL, which starts from the CPU's approximation of 1/sqrt(x): one result
    in six is wrong in its last bit, and which ones depends on the vendor.
    """
    import torch

    library = torch.library.Library("aten", "IMPL")
    KEPT.append(library)  # its kernels are unregistered when it is deleted
    library.impl("sqrt", _square_root, "CPU")
    library.impl("sqrt_", lambda x: x.copy_(_square_root(x)), "CPU")
    library.impl("pow.Tensor_Scalar", _power, "CPU")


def _square_root(x: torch.Tensor) -> torch.Tensor:
    """Return the square root by numpy, which uses the CPU's correctly rounded instruction."""
    import numpy as np
    import torch

    wide = x.detach() if x.dtype in (torch.float32, torch.float64) else x.detach().float()
    with np.errstate(invalid="ignore"):
        root = torch.from_numpy(np.asarray(np.sqrt(wide.numpy())))
    return root if x.dtype == root.dtype or not x.is_floating_point() else root.to(x.dtype)


def _power(x: torch.Tensor, exponent: float) -> torch.Tensor:
    """Return x ** exponent; for 0.5, as in DeepSpeed's gradient norms, by `_square_root`."""
    import torch

    if exponent == 0.5:
        return _square_root(x)
    into = torch.empty_like(x, dtype=torch.result_type(x, exponent))
    return torch.pow(x.detach(), exponent, out=into)  # PyTorch's own kernel
