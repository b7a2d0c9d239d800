"""Codebook health from histograms of codes (GEAR, Evaluation)."""

from __future__ import annotations

import numpy as np


def histogram(indices: np.ndarray, codes: int) -> np.ndarray:
    """Counts of every code, (K,) int64."""
    return np.bincount(indices.reshape(-1), minlength=codes).astype(np.int64)


def perplexity(counts_K: np.ndarray) -> float:
    """exp(H) of the unigram distribution, in [1, K]."""
    share = counts_K[counts_K > 0] / counts_K.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def usage(counts_K: np.ndarray) -> float:
    """Share of codes seen at all."""
    return float((counts_K > 0).mean())


def top_mass(counts_K: np.ndarray, k: int) -> float:
    """Share of tokens that the k most frequent codes take."""
    return float(np.sort(counts_K)[::-1][:k].sum() / counts_K.sum())


def churn(first: np.ndarray, second: np.ndarray) -> float:
    """Share of tokens whose index changed between two tokenizers on the same images."""
    return float((first != second).mean())
