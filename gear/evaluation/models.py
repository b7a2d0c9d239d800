"""Running tokenizer, generator and encoder over whole sets, in batches, in inference mode."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F

from gear.alignment.teachers import Encoder
from gear.generator.transformer import Generator
from gear.tokenizer.model import Tokenizer

BATCH = 128


def to_tensor(pixels: np.ndarray) -> torch.Tensor:
    """(N, H, W, 3) uint8 to (N, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div(127.5).sub(1.0).contiguous()


def to_pixels(images: torch.Tensor) -> np.ndarray:
    """[-1, 1] to uint8, rounded to nearest; (N, H, W, 3)."""
    return images.float().clamp(-1, 1).add(1.0).mul(127.5).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def batches(count: int) -> Iterator[slice]:
    """Slices over `count` rows."""
    return (slice(start, min(start + BATCH, count)) for start in range(0, count, BATCH))


@torch.inference_mode()
def patch_features(encoder: Encoder, pixels: np.ndarray, input_size: int, grid: int, label: str = "") -> np.ndarray:
    """Teacher features (N, grid * grid, 112) float16; `label` names the work in progress lines."""
    parts = []
    for part in batches(len(pixels)):
        parts.append(encoder(to_tensor(pixels[part]), input_size, grid).half().numpy())
        if label and part.start % (BATCH * 4) == 0:
            print(f"{label} {part.stop}/{len(pixels)}", flush=True)
    return np.concatenate(parts)


def pooled_features(encoder: Encoder, pixels: np.ndarray, input_size: int) -> np.ndarray:
    """Block-10 features averaged over space, (N, 112) float32."""
    return patch_features(encoder, pixels, input_size, input_size // 16).astype(np.float32).mean(1)


@torch.inference_mode()
def tokens_of(tokenizer: Tokenizer, pixels: np.ndarray) -> np.ndarray:
    """Indices (N, L) int64."""
    return torch.cat([tokenizer.encode(to_tensor(pixels[p])).indices for p in batches(len(pixels))]).numpy()


@torch.inference_mode()
def images_of(tokenizer: Tokenizer, tokens_NL: np.ndarray) -> np.ndarray:
    """Decoded pixels (N, H, W, 3) uint8."""
    return np.concatenate([to_pixels(tokenizer.decode_indices(torch.from_numpy(tokens_NL[p]))) for p in batches(len(tokens_NL))])


@torch.inference_mode()
def next_token_nats(generator: Generator, tokens_NL: np.ndarray, labels_N: np.ndarray) -> float:
    """Mean next-token loss, nats a token."""
    total = 0.0
    for part in batches(len(tokens_NL)):
        tokens, labels = torch.from_numpy(tokens_NL[part]), torch.from_numpy(labels_N[part])
        logits = generator(tokens, labels).logits
        total += F.cross_entropy(logits.double().flatten(0, 1), tokens.flatten(), reduction="sum").item()
    return total / tokens_NL.size


def bits_an_image(nats: float, tokens: int) -> float:
    """Nats a token to bits an image."""
    return nats * tokens / math.log(2)
