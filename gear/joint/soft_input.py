"""Make the generator's input from a soft assignment."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from gear.tokenizer.assignment import straight_through
from gear.tokenizer.quantizers import Quantized


def soft_tokens(
    quantized: Quantized, table_KD: torch.Tensor, *, temperature: float, readout: str
) -> torch.Tensor:
    """Return the generator's input for an assignment, (B, L, D), in the caller's precision.

    Under bf16 autocast it is bf16, although the distances are fp32.

    Args:
        quantized: The assignment, of distances d.
        table_KD: Embedding table of the generator.
        temperature: tau.
        readout: "soft" for the table mixed by softmax(-d / tau); "straight_through" for the value
            of the hard tokens with the gradient of the soft ones.
    """
    mixed = quantized.assignment.mix(table_KD, temperature)
    if readout == "soft":
        return mixed
    return straight_through(F.embedding(quantized.indices, table_KD).to(mixed.dtype), mixed)
