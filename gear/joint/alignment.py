"""The alignment loss, and the projector from generator to teachers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


def alignment_loss(
    projected_BLC: torch.Tensor, teacher_BLC: torch.Tensor, teachers: tuple[int, ...]
) -> torch.Tensor:
    """Return minus the mean cosine over batch, tokens and teachers, in [-1, 1], fp32.

    Args:
        projected_BLC: Projected features of the generator, the teachers' channels concatenated.
        teacher_BLC: Features of the teachers, concatenated alike.
        teachers: Number of channels of each teacher, which sum to C.
    """
    pairs = zip(
        projected_BLC.float().split(teachers, -1),
        teacher_BLC.float().split(teachers, -1),
        strict=True,
    )
    return -torch.stack([F.cosine_similarity(a, b, dim=-1).mean() for a, b in pairs]).mean()


def head(width: int, hidden: int, out: int) -> nn.Sequential:
    """Return the MLP that projects to one teacher."""
    return nn.Sequential(
        nn.Linear(width, hidden),
        nn.SiLU(),
        nn.Linear(hidden, hidden),
        nn.SiLU(),
        nn.Linear(hidden, out),
    )


class Projector(nn.Module):
    """One MLP of three layers per teacher, from the generator's tap to the teacher's features.

    It maps (B, L, width) to (B, L, sum of the teachers' widths).
    """

    def __init__(self, width: int, hidden: int, teachers: tuple[int, ...]) -> None:
        super().__init__()
        self.teachers = teachers
        self.heads = nn.ModuleList(head(width, hidden, out) for out in teachers)

    def forward(self, tap_BLD: torch.Tensor) -> torch.Tensor:
        return torch.cat([head(tap_BLD) for head in self.heads], dim=-1)
