"""The alignment loss (GEAR, Alignment)."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def alignment_loss(projected_BLC: torch.Tensor, teacher_BLC: torch.Tensor, teachers: tuple[int, ...]) -> torch.Tensor:
    """Minus the mean cosine over batch, tokens and teachers, in [-1, 1], in fp32; `teachers`: widths that make up C."""
    pairs = zip(projected_BLC.float().split(teachers, -1), teacher_BLC.float().split(teachers, -1), strict=True)
    return -torch.stack([F.cosine_similarity(a, b, dim=-1).mean() for a, b in pairs]).mean()
