"""The soft read-out of the assignment as input of the generator."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from gear.tokenizer.assignment import straight_through
from gear.tokenizer.quantizers import Quantized


def soft_tokens(
    quantized: Quantized, table_KD: torch.Tensor, *, temperature: float, readout: str
) -> torch.Tensor:
    """Return the generator's input for an assignment, (B, L, D).

    That is its own embedding table, mixed by softmax(-d / tau).

    `straight_through` gives the hard tokens' value and the soft ones' gradient.
    """
    mixed = quantized.assignment.mix(table_KD, temperature)
    if readout == "soft":
        return mixed
    return straight_through(F.embedding(quantized.indices, table_KD).to(mixed.dtype), mixed)
