"""Dropout that does not wait for random numbers on CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class Dropout(nn.Dropout):
    """`nn.Dropout`; on CPU its mask comes from 16 random bits an element, so `p` holds to 1/65536.

    torch draws 32 bits an element there, one core at a time: a sixth of a small generator's
    training step.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.is_cuda or not self.training or self.p == 0.0:
            return F.dropout(x, self.p, self.training)
        words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        bits = words.view(torch.int16)[: x.numel()].view(x.shape)
        return torch.where(bits >= round(self.p * 65536) - 32768, x * (1.0 / (1.0 - self.p)), 0.0)
