"""Likelihood of the tokens of real images under a generator."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F

from gear.core.ranks import ALONE, Ranks
from gear.data.row_selection import batches
from gear.data.shards import Split
from gear.evaluation.metric_protocol import Metric
from gear.generator.conditions import Conditions
from gear.generator.transformer import Generator
from gear.tokenizer.inference import encode_images
from gear.tokenizer.model import Tokenizer

BATCH = 16  # sequences at a time: their logits over 16384 codes are half a gigabyte in fp64


def likelihood(
    tokenizer: Tokenizer,
    generator: Generator,
    val: Split,
    conditions: Conditions,
    condition: str,
    ranks: Ranks = ALONE,
) -> dict[str, Metric]:
    """Return `ntp_nats` (nats per token) and `ntp_bits` (bits per image) of the validation images.

    condition: The setting data.condition, for the protocol. Ranks share the work.
    """
    nats = next_token_nats(generator, encode_images(tokenizer, val, ranks), conditions, ranks)
    protocol = {
        "split": "val",
        "n": len(val),
        "codes": generator.codes,
        "tokens": generator.tokens,
        "weights": "EMA",
        "given": condition,
    }
    bits = bits_per_image(nats, generator.tokens)
    return {
        "ntp_nats": Metric(nats, protocol),
        "ntp_bits": Metric(bits, {**protocol, "unit": "bits an image"}),
    }


def next_token_nats(
    generator: Generator, tokens_NL: np.ndarray, conditions: Conditions, ranks: Ranks = ALONE
) -> float:
    """Return the mean next-token loss, nats per token; `conditions` maps rows to conditions."""
    device = next(generator.parameters()).device

    @torch.inference_mode()
    def nats_of(part: slice) -> float:
        tokens = torch.from_numpy(tokens_NL[part]).to(device)
        condition = conditions(np.arange(part.start, part.stop)).to(device)
        logits = generator(tokens, condition).logits
        assert logits is not None
        losses = F.cross_entropy(logits.double().flatten(0, 1), tokens.flatten(), reduction="sum")
        return losses.item()

    return sum(ranks.map(nats_of, batches(len(tokens_NL), BATCH))) / tokens_NL.size


def bits_per_image(nats: float, tokens: int) -> float:
    """Return nats per token as bits per image of `tokens` tokens.

    >>> bits_per_image(math.log(2), 64)
    64.0
    """
    return nats * tokens / math.log(2)
