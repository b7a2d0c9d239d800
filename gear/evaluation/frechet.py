"""The Fréchet distance between Gaussians fitted to features. Over anything but Inception-v3 it is FD(extractor), never FID."""

from __future__ import annotations

import numpy as np


def statistics(features_NC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (C,) and unbiased covariance (C, C), float64. Raises ValueError under two rows."""
    if len(features_NC) < 2:
        raise ValueError(f"statistics need at least two feature rows, not {len(features_NC)}")
    features = np.asarray(features_NC, dtype=np.float64)
    return features.mean(0), np.cov(features, rowvar=False)


def frechet_distance(
    mean1: np.ndarray, cov1: np.ndarray, mean2: np.ndarray, cov2: np.ndarray
) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), Heusel et al. 2017.

    tr (C1 C2)^(1/2) is the sum of square roots of the eigenvalues of the symmetric C1^(1/2) C2 C1^(1/2).
    """
    values, vectors = np.linalg.eigh(cov1)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ cov2 @ root).clip(min=0)).sum()
    return float(((mean1 - mean2) ** 2).sum() + np.trace(cov1) + np.trace(cov2) - 2 * cross)


def distance(features1_NC: np.ndarray, features2_NC: np.ndarray) -> float:
    """Fréchet distance of two sets of features."""
    return frechet_distance(*statistics(features1_NC), *statistics(features2_NC))


def half_floor(features_NC: np.ndarray, seed: int) -> float:
    """Distance between two random halves of one set: what sampling noise alone gives at that size."""
    order = np.random.default_rng(seed).permutation(len(features_NC))
    half = len(order) // 2
    return distance(features_NC[order[:half]], features_NC[order[half : 2 * half]])
