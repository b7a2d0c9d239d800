"""Running tokenizer, generator and encoder over whole sets, in batches, in inference mode, on the model's device."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from gear.alignment.teachers import Encoder
from gear.generator.transformer import Generator
from gear.tokenizer.model import Tokenizer

BATCH = 128
ENCODER_BATCH = 32  # at 128 px, what still fits a core's cache


class Pixels(Protocol):
    """Images (N, H, W, 3) uint8 read a slice at a time: an array, or a split of shards too large for memory."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> np.ndarray: ...


def to_tensor(pixels: np.ndarray, model: nn.Module) -> torch.Tensor:
    """(N, H, W, 3) uint8 to (N, 3, H, W) in [-1, 1] on the model's device."""
    device = next(model.parameters()).device
    return torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float().div(127.5).sub(1.0).contiguous()


def to_pixels(images: torch.Tensor) -> np.ndarray:
    """[-1, 1] to uint8, rounded to nearest; (N, H, W, 3)."""
    return images.float().clamp(-1, 1).add(1.0).mul(127.5).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()


def batches(count: int, size: int = BATCH) -> Iterator[slice]:
    """Slices of at most `size` over `count` rows."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def evenly(count: int, most: int) -> np.ndarray:
    """Positions of all of `count` rows, or of `most` evenly spaced ones, int64."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)


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


@torch.inference_mode()
def next_token_nats(generator: Generator, tokens_NL: np.ndarray, labels_N: np.ndarray) -> float:
    """Mean next-token loss, nats a token."""
    total, device = 0.0, next(generator.parameters()).device
    for part in batches(len(tokens_NL)):
        tokens, labels = (torch.from_numpy(x[part]).to(device) for x in (tokens_NL, labels_N))
        logits = generator(tokens, labels).logits
        assert logits is not None
        total += F.cross_entropy(logits.double().flatten(0, 1), tokens.flatten(), reduction="sum").item()
    return total / tokens_NL.size


def bits_an_image(nats: float, tokens: int) -> float:
    """Nats a token to bits an image."""
    return nats * tokens / math.log(2)
