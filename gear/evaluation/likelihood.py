"""Next-token loss of a generator on tokens of real images."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from gear.data.rows import batches
from gear.generator.conditioning import Condition
from gear.generator.transformer import Generator

NTP_BATCH = 16  # sequences at a time: their logits over 16384 codes are half a gigabyte in fp64


@torch.inference_mode()
def next_token_nats(
    generator: Generator, tokens_NL: np.ndarray, given: Callable[[np.ndarray], Condition]
) -> float:
    """Mean next-token loss, nats a token; `given`: rows to their condition."""
    total, device = 0.0, next(generator.parameters()).device
    for part in batches(len(tokens_NL), NTP_BATCH):
        tokens = torch.from_numpy(tokens_NL[part]).to(device)
        logits = generator(tokens, given(np.arange(part.start, part.stop)).to(device)).logits
        assert logits is not None
        total += F.cross_entropy(
            logits.double().flatten(0, 1), tokens.flatten(), reduction="sum"
        ).item()
    return total / tokens_NL.size


def bits_per_image(nats: float, tokens: int) -> float:
    """Nats a token to bits an image."""
    return nats * tokens / math.log(2)
