"""Codebook health: usage, perplexity, effective support and churn."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from gear.data.images import to_tensor
from gear.tokenizer.model import Tokenizer


def codebook_health(tokens_NL: np.ndarray, codes: int) -> dict[str, Any]:
    """Return usage, perplexity, number of dead codes, top mass and sorted histogram of tokens."""
    counts = histogram(tokens_NL, codes)
    return {
        "usage": usage(counts),
        "perplexity": perplexity(counts),
        "dead": int((counts == 0).sum()),
        "top_mass": {str(k): top_mass(counts, k) for k in (1, 10, 100) if k < codes},
        "histogram": np.sort(counts)[::-1].tolist(),
    }


@torch.inference_mode()
def soft_support(tokenizer: Tokenizer, pixels: np.ndarray, temperature: float) -> dict[str, float]:
    """Return effective support and probability of the ten likeliest codes of the soft assignment.

    pixels: (N, H, W, 3) uint8. Both values are means over tokens.
    """
    assignment = tokenizer.encode(to_tensor(pixels, tokenizer)).assignment
    return {
        "effective_support": assignment.support(temperature),
        "top_10_mass": assignment.top_mass(temperature, 10),
    }


def histogram(tokens: np.ndarray, codes: int) -> np.ndarray:
    """Return the count of every code in `tokens`, of any shape, (codes,) int64.

    >>> histogram(np.array([0, 2, 2]), codes=4).tolist()
    [1, 0, 2, 0]
    """
    return np.bincount(tokens.reshape(-1), minlength=codes).astype(np.int64)


def perplexity(counts_K: np.ndarray) -> float:
    """Return exp(H) of the distribution with these counts of K codes, in [1, K].

    >>> perplexity(np.array([2, 2, 0, 0]))
    2.0
    """
    share = counts_K[counts_K > 0] / counts_K.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def usage(counts_K: np.ndarray) -> float:
    """Return the share of codes with a count over 0, in [0, 1].

    >>> usage(np.array([2, 2, 0, 1]))
    0.75
    """
    return float((counts_K > 0).mean())


def top_mass(counts_K: np.ndarray, k: int) -> float:
    """Return the share of tokens that have one of the k most frequent codes, in [0, 1].

    >>> top_mass(np.array([1, 6, 3]), 2)
    0.9
    """
    return float(np.sort(counts_K)[::-1][:k].sum() / counts_K.sum())


def churn(first: np.ndarray, second: np.ndarray) -> float:
    """Return the share of tokens whose index differs between two tokenizers, in [0, 1].

    Args:
        first: Indices of some images by one tokenizer.
        second: Indices of the same images by another, of equal shape.

    >>> churn(np.array([1, 2, 3, 4]), np.array([1, 2, 0, 0]))
    0.5
    """
    return float((first != second).mean())
