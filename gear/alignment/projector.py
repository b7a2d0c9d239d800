"""The projectors from the generator's tap to each teacher's width (GEAR, Alignment)."""

from __future__ import annotations

import torch
from torch import nn


def head(width: int, hidden: int, out: int) -> nn.Sequential:
    """The projector to one teacher."""
    return nn.Sequential(nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, out))


class Projector(nn.Module):
    """One Linear, SiLU, Linear, SiLU, Linear a teacher: (B, L, width) to (B, L, sum of the teachers' widths)."""

    def __init__(self, width: int, hidden: int, teachers: tuple[int, ...]) -> None:
        super().__init__()
        self.teachers = teachers
        self.heads = nn.ModuleList(head(width, hidden, out) for out in teachers)

    def forward(self, tap_BLD: torch.Tensor) -> torch.Tensor:
        return torch.cat([head(tap_BLD) for head in self.heads], dim=-1)
