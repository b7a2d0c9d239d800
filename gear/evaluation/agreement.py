"""Do samples agree with their captions? Retrieval among real images with the packaged encoder, against shuffled captions.

Not CLIPScore: no encoder here has seen text and images together. It asks which real image a sample looks most like, and whether
that one is what the caption asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

DRAWS = 1000  # of the bootstrap, and of the shuffles behind the floor
LEVEL = 0.95


@dataclass(frozen=True)
class Agreement:
    """A score in [0, 1], its 95 % bootstrap interval over captions, and the floor: the mean score of shuffled captions."""

    score: float
    low: float
    high: float
    floor: float


def unit(features_NC: np.ndarray, mean_C: np.ndarray) -> np.ndarray:
    """Features centred on the reference's mean and scaled to length 1: cosines then tell images apart."""
    centred = np.asarray(features_NC, np.float64) - mean_C
    return centred / np.linalg.norm(centred, axis=1, keepdims=True).clip(min=1e-12)


def nearest_class(samples_NC: np.ndarray, real_MC: np.ndarray, labels_M: np.ndarray) -> np.ndarray:
    """Class of the real image nearest to each sample, (N,)."""
    return labels_M[(torch.from_numpy(samples_NC) @ torch.from_numpy(real_MC).T).argmax(1).numpy()]



def agreement(hits: np.ndarray, captions_N: np.ndarray, shuffled_hits: np.ndarray) -> Agreement:
    """Mean of `hits` (N,) over samples, its interval by resampling captions (samples of one caption are not independent).

    captions_N: which caption each sample had. shuffled_hits: mean scores of shuffled captions.
    """
    names, member = np.unique(captions_N, return_inverse=True)
    sums, counts = np.bincount(member, hits), np.bincount(member)
    random = np.random.default_rng(0)
    drawn = random.integers(0, len(names), (DRAWS, len(names)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Agreement(float(hits.mean()), float(low), float(high), float(np.mean(shuffled_hits)))


def category_agreement(found_N: np.ndarray, asked_N: np.ndarray, captions_N: np.ndarray) -> Agreement:
    """Share of samples whose nearest real image has the class that the caption belongs to; the floor by shuffling whole captions."""
    names, first, member = np.unique(captions_N, return_index=True, return_inverse=True)
    random = np.random.default_rng(0)
    classes = asked_N[first]
    floor = [(found_N == classes[random.permutation(len(names))][member]).mean() for _ in range(DRAWS)]
    return agreement((found_N == asked_N).astype(np.float64), captions_N, np.array(floor))


def own_agreement(samples_NC: np.ndarray, real_MC: np.ndarray, own_N: np.ndarray, within: float) -> Agreement:
    """Share of samples whose caption's own real image is among the nearest `within` of all; the floor is the same for shuffled captions.

    own_N: row of `real_MC` that each sample's caption belongs to; it names the caption too.
    """
    similarity = samples_NC @ real_MC.T
    ranks = np.argsort(np.argsort(-similarity, axis=1), axis=1) / len(real_MC)  # of every real image, for every sample
    names, member = np.unique(own_N, return_inverse=True)
    random = np.random.default_rng(0)
    rows = np.arange(len(own_N))
    floor = [(ranks[rows, names[random.permutation(len(names))][member]] < within).mean() for _ in range(DRAWS)]
    return agreement((ranks[rows, own_N] < within).astype(np.float64), own_N, np.array(floor))
