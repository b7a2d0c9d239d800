"""Print a hash of what each operation of a training computes, to compare two machines.

    python tools/operation_hashes.py > here.txt     # on both machines; then diff the two files

With the variables below the hashes should be the same on every x86-64 processor with AVX2, except
where MKL computes square roots: `sqrt` and `cdist`.

    ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_CBWR=COMPATIBLE
    OPENBLAS_CORETYPE=Haswell OMP_NUM_THREADS=2 OMP_DYNAMIC=FALSE MKL_DYNAMIC=FALSE
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F

GENERATOR = torch.Generator().manual_seed(0)

ELEMENTWISE: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "exp": torch.exp,
    "log": lambda x: x.abs().log(),
    "sqrt": lambda x: x.abs().sqrt(),
    "rsqrt": lambda x: x.abs().rsqrt(),
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "erf": torch.erf,
    "gelu": F.gelu,
    "silu": F.silu,
    "softplus": F.softplus,
    "softmax": lambda x: x.softmax(-1),
    "log_softmax": lambda x: x.log_softmax(-1),
    "rms_norm": lambda x: F.rms_norm(x, x.shape[-1:]),
    "sum": torch.sum,
    "mean of columns": lambda x: x.mean(0),
    "norm of rows": lambda x: torch.linalg.vector_norm(x, dim=-1),
}
CONVOLUTIONS = {  # input and output channels, kernel, stride, side
    "conv 3x3": (32, 64, 3, 1, 16),
    "conv 1x1": (64, 32, 1, 1, 16),
    "conv 3x3, stride 2": (32, 32, 3, 2, 16),
    "conv 4x4, stride 2": (3, 8, 4, 2, 32),
    "conv to one channel": (32, 1, 4, 1, 7),
}


def normal(*shape: int) -> torch.Tensor:
    """Return normal random numbers that take a gradient."""
    return torch.randn(*shape, generator=GENERATOR).requires_grad_()


def results() -> Iterator[tuple[str, list[torch.Tensor]]]:
    """Yield the name of each operation, and its outputs and gradients."""
    yield "random numbers", [normal(1000)]
    yield "matrix product", [normal(256, 192) @ normal(192, 768)]
    yield "batched matrix product", [normal(8, 64, 64) @ normal(8, 64, 32)]
    yield "cdist", [torch.cdist(normal(64, 512), normal(128, 512))]
    for name, (channels, out, kernel, stride, side) in CONVOLUTIONS.items():
        x = normal(4, channels, side, side)
        weight = normal(out, channels, kernel, kernel)
        y = F.conv2d(x, weight, stride=stride, padding=kernel // 2)
        yield name, with_gradients(y, x, weight)
    x = normal(4, 32, 8, 8)
    yield "group norm", with_gradients(F.group_norm(x, 8), x)
    queries = [normal(2, 4, 65, 32) for _ in range(3)]
    attention = F.scaled_dot_product_attention(*queries, is_causal=True)
    yield "attention", with_gradients(attention, *queries)
    for name, function in ELEMENTWISE.items():
        yield name, [function(normal(64, 512))]
    parameter = torch.nn.Parameter(normal(1000).detach())
    optimizer = torch.optim.AdamW([parameter], lr=1e-3, fused=True)
    for _ in range(3):
        parameter.grad = normal(1000).detach()
        optimizer.step()
    yield "fused AdamW", [parameter]
    matrix = normal(112, 112).detach().double().numpy()
    yield "eigenvalues (numpy)", [torch.from_numpy(np.linalg.eigvalsh(matrix @ matrix.T))]


def with_gradients(output: torch.Tensor, *inputs: torch.Tensor) -> list[torch.Tensor]:
    """Return an output and the gradients of its sum of squares."""
    return [output, *torch.autograd.grad(output.square().sum(), inputs)]


def main() -> None:
    """Print a line per operation."""
    for name, tensors in results():
        digest = hashlib.sha256()
        for tensor in tensors:
            digest.update(np.ascontiguousarray(tensor.detach().numpy()).tobytes())
        print(f"{name:24} {digest.hexdigest()[:16]}")


if __name__ == "__main__":
    main()
