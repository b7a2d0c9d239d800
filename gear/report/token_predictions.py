"""Measure how well a generator predicts the tokens of images."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from gear.generator.conditioning import Condition
from gear.generator.transformer import Generator


@dataclass(frozen=True)
class Predictions:
    """Bits for each token of N images, (N, L) float64.

    entropy: of the predicted distribution, given the previous tokens.
    cost: -log2 of the predicted probability of the actual token.
    """

    entropy: np.ndarray
    cost: np.ndarray


@torch.inference_mode()
def predict_tokens(generator: Generator, tokens_NL: np.ndarray, given: Condition) -> Predictions:
    """Return entropy and cost of the tokens (N, L) int64 of images, under N conditions."""
    tokens = torch.from_numpy(tokens_NL)
    logits = generator(tokens, given).logits
    assert logits is not None
    nats_NLK = -logits.double().log_softmax(-1)
    entropy = (nats_NLK.neg().exp() * nats_NLK).sum(-1)
    cost = nats_NLK.gather(-1, tokens[..., None]).squeeze(-1)
    return Predictions((entropy / math.log(2)).numpy(), (cost / math.log(2)).numpy())
