"""Dropout whose masks belong to images: the same on any number of ranks, and in any parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn

STRIDE = 0x9E3779B1  # between the seeds of two modules, a prime near 2^32 / golden ratio
_seeds: list[int] = []  # of the images that are trained on


@contextmanager
def drawn_by_image(seeds: Sequence[int]) -> Iterator[None]:
    """Let dropout draw each image's masks from that image's seed alone, in the block.

    seeds: one for each row of the batches that pass through; none for torch's own generator. A
    batch of another length raises ValueError.
    """
    _seeds[:] = seeds
    try:
        yield
    finally:
        _seeds.clear()


class Dropout(nn.Dropout):
    """`nn.Dropout`; on CPU its mask comes from 16 random bits an element, so `p` holds to 1/65536.

    torch draws 32 bits an element there, one core at a time: a sixth of a small generator's
    training step.

    number: Another one for each module of a model, so that their masks differ.
    """

    number = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _drop(x, self.p, self.number) if self.training and self.p > 0.0 else x


# it depends on the seeds, of which a compiled part knows nothing
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
    """Return a uniform number in [0, 1) for each image, (count,) fp32."""
    if not _seeds:
        return torch.rand(count, device=device)
    numbers = torch.empty(count, device=device)
    for place, generator in zip(range(count), _generators(-1, device), strict=True):
        numbers[place].uniform_(generator=generator)
    return numbers


def _generators(number: int, device: torch.device) -> Iterator[torch.Generator]:
    """Yield the generator of each image for one module; the same object, seeded anew."""
    generator = torch.Generator(device)
    for seed in _seeds:
        yield generator.manual_seed((seed + number * STRIDE) % 2**63)
