"""The alignment loss (GEAR, Alignment)."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def alignment_loss(projected_BLC: torch.Tensor, teacher_BLC: torch.Tensor) -> torch.Tensor:
    """Minus the mean cosine over batch and tokens, in [-1, 1], in fp32."""
    return -F.cosine_similarity(projected_BLC.float(), teacher_BLC.float(), dim=-1).mean()
