"""Similarity of two sets of patch features (CKNNA, linear CKA, linear probe), and among patches.

Two sets that are compared describe the same N patches in the same order.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

RIDGE = 1e-2  # penalty of the probe per patch, for features of unit standard deviation


def linear_cka(first_NC: np.ndarray, second_ND: np.ndarray) -> float:
    """Return |Y'X|^2 / (|X'X| |Y'Y|) of centred features, Frobenius norms, in [0, 1].

    Kornblith et al. 2019. The estimate is biased: that of unrelated features is above 0, the more
    the wider they are (0.01 for widths 8 and 112, 0.27 for 768 and 768, of 2048 random patches). So
    compare features of the same width only.

    Raises:
        ValueError: if all patches have the same features.

    >>> x = np.array([[0.0, 1.0], [2.0, 0.0], [1.0, 5.0]])
    >>> round(linear_cka(x, 3 * x + 7), 6)
    1.0
    """
    x, y = (_centred(a) for a in (first_NC, second_ND))
    norms = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    if norms == 0:
        raise ValueError("all patches have the same features")
    return float(np.linalg.norm(y.T @ x) ** 2 / norms)


def cknna(first_NC: np.ndarray, second_ND: np.ndarray, k: int) -> float:
    """Return CKA over the pairs of patches that are mutual k-nearest neighbours in both spaces.

    Huh et al. 2024. Kernels are cosines; HSIC is the unbiased estimate (Song et al. 2012). The
    value is 1 for equal sets and about 0 for unrelated ones.

    Raises:
        ValueError: unless N > k >= 2 and N > 3.

    >>> features = np.random.default_rng(0).normal(size=(8, 4))
    >>> round(cknna(features, 3 * features, k=3), 6)
    1.0
    """
    if not (len(first_NC) > max(k, 3) and k >= 2):
        raise ValueError(
            f"CKNNA with k {k} needs k of at least 2 and more patches than that, "
            f"not {len(first_NC)}"
        )
    kernels = [_cosines(a) for a in (first_NC, second_ND)]
    near = [_nearest(kernel, k) for kernel in kernels]

    def similarity(i: int, j: int) -> float:
        both = near[i] & near[j]
        return _hsic(kernels[i] * both, kernels[j] * both)

    result: float = similarity(0, 1) / max(similarity(0, 0) * similarity(1, 1), 1e-24) ** 0.5
    return result


def probe(
    fit_NC: np.ndarray, wanted_ND: np.ndarray, test_MC: np.ndarray, wanted_MD: np.ndarray
) -> float:
    """Return R^2 on M held-out patches of a ridge regression fitted on N patches; at most 1.

    All output channels are pooled.

    Args:
        fit_NC: Features to fit on.
        wanted_ND: Features to predict from them.
        test_MC: Features to test on.
        wanted_MD: Features to predict from those.

    Raises:
        ValueError: if either set is empty, or there is nothing to explain in the held-out patches.

    >>> x = np.random.default_rng(0).normal(size=(64, 2))
    >>> round(probe(x[:32], 2 * x[:32], x[32:], 2 * x[32:]), 2)
    1.0
    """
    if not len(fit_NC) or not len(test_MC):
        raise ValueError("it needs two images, to fit on the one and to test on the other")
    spread = (_centred(wanted_MD) ** 2).sum()
    if spread == 0:
        raise ValueError("the held-out patches all have the same features to predict")
    mean = fit_NC.mean(0, dtype=np.float64)
    deviation = fit_NC.std(0, dtype=np.float64) + 1e-6
    offset = wanted_ND.mean(0, dtype=np.float64)
    x = (fit_NC - mean) / deviation
    weights = np.linalg.solve(
        x.T @ x + RIDGE * len(x) * np.eye(x.shape[1]), x.T @ (wanted_ND - offset)
    )
    residual = wanted_MD - offset - ((test_MC - mean) / deviation) @ weights
    return float(1 - (residual**2).sum() / spread)


def spatial_contrast(features_NLC: np.ndarray) -> float:
    """Return how much more similar neighbouring patches of an image are than distant ones.

    That is the mean cosine similarity of neighbouring patches minus that of distant ones, in
    [-2, 2]. Patches are neighbours if their Manhattan distance is under half a side, or 1. The mean
    feature of all patches is subtracted first. Features that do not depend on the position score
    about 0.

    Args:
        features_NLC: L features of each of N images, on a square grid in raster order.

    Raises:
        ValueError: if L is not a square number of at least 4.

    >>> ramp = np.stack(np.meshgrid([-1.5, -0.5, 0.5, 1.5], [-1.5, -0.5, 0.5, 1.5]), -1)
    >>> spatial_contrast(ramp.reshape(1, 16, 2)) > 0.9
    True
    """
    side = round(features_NLC.shape[1] ** 0.5)
    if side < 2 or side**2 != features_NLC.shape[1]:
        raise ValueError(f"{features_NLC.shape[1]} patches are no square grid of 2 a side or more")
    places = np.stack(np.divmod(np.arange(side**2), side), 1)
    distance_LL = np.abs(places[:, None] - places).sum(-1)
    near = (distance_LL > 0) & (distance_LL < max(2, side / 2))
    far = distance_LL >= max(2, side / 2)
    mean_C = features_NLC.mean((0, 1), dtype=np.float64)
    sums = np.zeros(2)
    for features_LC in features_NLC:
        unit_LC = features_LC - mean_C
        unit_LC /= np.maximum(np.linalg.norm(unit_LC, axis=1, keepdims=True), 1e-12)
        cosine_LL = unit_LC @ unit_LC.T
        sums += cosine_LL[near].mean(), cosine_LL[far].mean()
    return float((sums[0] - sums[1]) / len(features_NLC))


def _centred(features: np.ndarray) -> np.ndarray:
    result: np.ndarray = np.asarray(features, np.float64) - features.mean(0, dtype=np.float64)
    return result


def _cosines(features: np.ndarray) -> torch.Tensor:
    """Return cosines of all pairs, (N, N) float64; the diagonal, which HSIC leaves out, is 0."""
    unit = F.normalize(torch.from_numpy(np.asarray(features, np.float64)), dim=1)
    return (unit @ unit.T).fill_diagonal_(0)


def _nearest(kernel_NN: torch.Tensor, k: int) -> torch.Tensor:
    others = kernel_NN.clone().fill_diagonal_(-torch.inf)
    rows = others.topk(k, dim=1).indices
    return torch.zeros_like(kernel_NN, dtype=torch.bool).scatter_(1, rows, True)


def _hsic(first_NN: torch.Tensor, second_NN: torch.Tensor) -> float:
    """Return the unbiased HSIC of two kernels whose diagonals are 0."""
    n = len(first_NN)
    trace = (first_NN * second_NN.T).sum()
    sums = first_NN.sum() * second_NN.sum() / ((n - 1) * (n - 2))
    crossed = 2 * (first_NN.sum(0) @ second_NN.sum(1)) / (n - 2)
    return float((trace + sums - crossed) / (n * (n - 3)))
