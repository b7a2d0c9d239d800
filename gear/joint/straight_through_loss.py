"""The straight-through next-token loss of the recipe `ste`, a baseline of the paper."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from gear.tokenizer.quantizers import Quantized


def straight_through_ntp(
    logits_BLK: torch.Tensor, quantized: Quantized, temperature: float
) -> torch.Tensor:
    """Return the mean next-token loss -sum_k o_k log p_k of the recipe `ste`, nats per token.

    The one-hot target o passes its gradient to the soft assignment (straight-through).

    Args:
        logits_BLK: Logits of the generator.
        quantized: Assignment of the tokens.
        temperature: tau of the soft assignment.
    """
    log_p = logits_BLK.float().log_softmax(-1)
    hard = F.nll_loss(log_p.flatten(0, 1), quantized.indices.flatten())
    expected = -(quantized.assignment.soft(temperature) * log_p.detach()).sum(-1).mean()
    return hard + (expected - expected.detach())
