"""The next-token loss of the recipe `ste`: straight-through, as the paper compares with."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from gear.tokenizer.quantizers import Quantized


def straight_through_ntp(
    logits_BLK: torch.Tensor, quantized: Quantized, temperature: float
) -> torch.Tensor:
    """Return the next-token loss -sum_k o_k log p_k of the recipe ste.

    The one-hot target o passes the gradient of the soft assignment.
    """
    log_p = logits_BLK.float().log_softmax(-1)
    hard = F.nll_loss(log_p.flatten(0, 1), quantized.indices.flatten())
    expected = -(quantized.assignment.soft(temperature) * log_p.detach()).sum(-1).mean()
    return hard + (expected - expected.detach())
