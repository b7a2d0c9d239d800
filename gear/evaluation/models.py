"""Running tokenizer, generator and encoder over whole sets, in batches, in inference mode, on the model's device."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from gear.alignment.efficientnet import Encoder
from gear.data.pixels import ENCODER_BATCH, Pixels, batches, to_pixels, to_tensor
from gear.generator.conditioning import Condition
from gear.generator.transformer import Generator
from gear.tokenizer.model import Tokenizer

NTP_BATCH = 16  # sequences at a time: their logits over 16384 codes are half a gigabyte in fp64


@torch.inference_mode()
def pooled_features(encoder: Encoder, pixels: Pixels, input_size: int) -> np.ndarray:
    """Block-10 features averaged over space, (N, 112) float32."""
    parts = batches(len(pixels), ENCODER_BATCH)
    return np.concatenate([encoder(to_tensor(pixels[p], encoder), input_size).mean((2, 3)).cpu().numpy() for p in parts])


@torch.inference_mode()
def tokens_of(tokenizer: Tokenizer, pixels: Pixels) -> np.ndarray:
    """Indices (N, L) int64."""
    return np.concatenate([tokenizer.encode(to_tensor(pixels[p], tokenizer)).indices.cpu().numpy() for p in batches(len(pixels))])


@torch.inference_mode()
def images_of(tokenizer: Tokenizer, tokens_NL: np.ndarray) -> np.ndarray:
    """Decoded pixels (N, H, W, 3) uint8."""
    device = next(tokenizer.parameters()).device
    parts = (torch.from_numpy(tokens_NL[p]).to(device) for p in batches(len(tokens_NL)))
    return np.concatenate([to_pixels(tokenizer.decode_indices(part)) for part in parts])


def decoded_features(encoder: Encoder, tokenizer: Tokenizer, tokens_NL: np.ndarray, input_size: int) -> np.ndarray:
    """Pooled features of decoded tokens, (N, 112); no more than a batch of images is held."""
    return np.concatenate([pooled_features(encoder, images_of(tokenizer, tokens_NL[p]), input_size) for p in batches(len(tokens_NL))])


@torch.inference_mode()
def next_token_nats(generator: Generator, tokens_NL: np.ndarray, given: Callable[[np.ndarray], Condition]) -> float:
    """Mean next-token loss, nats a token; `given`: rows to their condition."""
    total, device = 0.0, next(generator.parameters()).device
    for part in batches(len(tokens_NL), NTP_BATCH):
        tokens = torch.from_numpy(tokens_NL[part]).to(device)
        logits = generator(tokens, given(np.arange(part.start, part.stop)).to(device)).logits
        assert logits is not None
        total += F.cross_entropy(logits.double().flatten(0, 1), tokens.flatten(), reduction="sum").item()
    return total / tokens_NL.size


def bits_an_image(nats: float, tokens: int) -> float:
    """Nats a token to bits an image."""
    return nats * tokens / math.log(2)
