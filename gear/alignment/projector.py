"""The projector from the generator's tap to the teacher's width (GEAR, Alignment)."""

from __future__ import annotations

from torch import nn


class Projector(nn.Sequential):
    """Linear, SiLU, Linear, SiLU, Linear: (B, L, width) to (B, L, out)."""

    def __init__(self, width: int, hidden: int, out: int) -> None:
        super().__init__(nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, out))
