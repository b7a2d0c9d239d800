"""Dropout with one seed per image: masks depend on neither ranks nor micro-batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn

STRIDE = 0x9E3779B1  # between the seeds of two modules, a prime near 2^32 / golden ratio
_seeds: list[int] = []  # one per image of the current batch; empty outside `drawn_by_image`


@contextmanager
def drawn_by_image(seeds: Sequence[int]) -> Iterator[None]:
    """Draw the dropout masks of each image from its seed alone inside the block.

    A batch in the block whose length is not the number of seeds raises ValueError.

    Args:
        seeds: One per row of the batches; empty for torch's default generator.
    """
    _seeds[:] = seeds
    try:
        yield
    finally:
        _seeds.clear()


class Dropout(nn.Dropout):
    """`nn.Dropout` that `drawn_by_image` can seed, and with a faster mask on CPU.

    The mask takes 16 random bits per element, so `p` is exact to 1/65536. On CPU, torch's own
    dropout draws 32 bits on one core, a sixth of the time of a small generator's training step.

    number: Index of the module in its model; modules with different numbers draw different masks.
    """

    number = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _drop(x, self.p, self.number) if self.training and self.p > 0.0 else x


# reads the global seeds, whose changes a compiled graph would not see
@torch.compiler.disable  # type: ignore[untyped-decorator]
def _drop(x: torch.Tensor, p: float, number: int) -> torch.Tensor:
    if x.is_cuda and not _seeds:
        return F.dropout(x, p)
    words = torch.empty(len(x), -(-x[0].numel() // 4), dtype=torch.int64, device=x.device)
    if _seeds:
        for row, generator in zip(words, _generators(number, x.device), strict=True):
            row.random_(-(2**63), None, generator=generator)
    else:
        words.random_(-(2**63), None)
    bits = words.view(torch.int16)[:, : x[0].numel()].view(x.shape)
    return torch.where(bits >= round(p * 65536) - 32768, x * (1.0 / (1.0 - p)), 0.0)


def uniforms_by_image(count: int, device: torch.device) -> torch.Tensor:
    """Return a uniform number in [0, 1) per image, (count,) fp32; from its seed if there is one."""
    if not _seeds:
        return torch.rand(count, device=device)
    numbers = torch.empty(count, device=device)
    for place, generator in zip(range(count), _generators(-1, device), strict=True):
        numbers[place].uniform_(generator=generator)
    return numbers


def _generators(number: int, device: torch.device) -> Iterator[torch.Generator]:
    """Yield a generator per image, seeded for one module; it is one object that is reseeded."""
    generator = torch.Generator(device)
    for seed in _seeds:
        yield generator.manual_seed((seed + number * STRIDE) % 2**63)
