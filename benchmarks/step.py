"""Time parts of a small joint step on the CPU, forward and backward, against plain code for them.

    python benchmarks/step.py

The two sides of each pair take turns in one process; compare the ratio of medians.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from gear.generator.rope import rotary_table, rotate
from gear.nn.attention import attend
from gear.nn.dropout import Dropout

B, L, H, E = 64, 64, 6, 32  # the quickstart's generator, batch 64


def bf16(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.bfloat16, requires_grad=True)


def backward(x: torch.Tensor) -> None:
    x.float().sum().backward()


def four_products(x: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    pairs = x.float().unflatten(-1, (-1, 2))
    cos, sin = table[None, :, None, :, 0], table[None, :, None, :, 1]
    even, odd = pairs[..., 0], pairs[..., 1]
    return (
        torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2).type_as(x)
    )


def pairs() -> dict[str, tuple[Callable[[], None], Callable[[], None]]]:
    """Return pairs of calls (plain, ours), by name."""
    q, k, v = (bf16(B, H, L, E) for _ in range(3))
    x, hidden, table = bf16(B, L, H, E), bf16(B, L, H * E), rotary_table(7, E, L - 49, "identity")
    plain, ours = torch.nn.Dropout(0.1).train(), Dropout(0.1).train()
    optimizers = []
    for fused in (False, True):
        parameter = torch.nn.Parameter(torch.randn(3_000_000))
        parameter.grad = torch.randn_like(parameter)
        optimizers.append(torch.optim.AdamW([parameter], fused=fused))
    return {
        "attention": (
            lambda: backward(F.scaled_dot_product_attention(q, k, v, is_causal=True)),
            lambda: backward(attend(q, k, v, causal=True)),
        ),
        "rotary positions": (
            lambda: backward(four_products(x, table)),
            lambda: backward(rotate(x, table)),
        ),
        "dropout": (lambda: backward(plain(hidden)), lambda: backward(ours(hidden))),
        "AdamW": (optimizers[0].step, optimizers[1].step),
    }


def main() -> None:
    """Print one row per part."""
    print(f"{'':18s}{'plain, ms':>10s}{'ours, ms':>10s}{'ratio':>7s}")
    for name, calls in pairs().items():
        seconds: list[list[float]] = [[], []]
        for turn in range(24):
            for call, taken in zip(calls, seconds, strict=True):
                start = time.perf_counter()
                call()
                if turn >= 4:
                    taken.append(time.perf_counter() - start)
        plain, ours = (1000 * statistics.median(taken) for taken in seconds)
        print(f"{name:18s}{plain:10.2f}{ours:10.2f}{plain / ours:7.2f}", flush=True)


if __name__ == "__main__":
    main()
