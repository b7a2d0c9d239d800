"""The alignment loss (GEAR, Alignment)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


def alignment_loss(
    projected_BLC: torch.Tensor, teacher_BLC: torch.Tensor, teachers: tuple[int, ...]
) -> torch.Tensor:
    """Return minus the mean cosine over batch, tokens and teachers, in [-1, 1], in fp32.

    teachers: numbers of channels that make up C.
    """
    pairs = zip(
        projected_BLC.float().split(teachers, -1),
        teacher_BLC.float().split(teachers, -1),
        strict=True,
    )
    return -torch.stack([F.cosine_similarity(a, b, dim=-1).mean() for a, b in pairs]).mean()


def head(width: int, hidden: int, out: int) -> nn.Sequential:
    """Return the projector to one teacher."""
    return nn.Sequential(
        nn.Linear(width, hidden),
        nn.SiLU(),
        nn.Linear(hidden, hidden),
        nn.SiLU(),
        nn.Linear(hidden, out),
    )


class Projector(nn.Module):
    """Linear, SiLU, Linear, SiLU, Linear for each teacher.

    From (B, L, width) to (B, L, sum of the teachers' widths).
    """

    def __init__(self, width: int, hidden: int, teachers: tuple[int, ...]) -> None:
        super().__init__()
        self.teachers = teachers
        self.heads = nn.ModuleList(head(width, hidden, out) for out in teachers)

    def forward(self, tap_BLD: torch.Tensor) -> torch.Tensor:
        return torch.cat([head(tap_BLD) for head in self.heads], dim=-1)
