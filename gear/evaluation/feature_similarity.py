"""How much alike two sets of patch features are: CKNNA, linear CKA, a linear probe (GEAR, Alignment analysis).

N patches; both sets describe the same patches in the same order, in spaces of their own.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

RIDGE = 1e-2  # of the probe, a patch, on features of unit deviation


def linear_cka(first_NC: np.ndarray, second_ND: np.ndarray) -> float:
    """|Y'X|^2 / (|X'X| |Y'Y|) of centred features, Frobenius norms, in [0, 1] (Kornblith et al. 2019)."""
    x, y = (_centred(a) for a in (first_NC, second_ND))
    return float(np.linalg.norm(y.T @ x) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)))


def cknna(first_NC: np.ndarray, second_ND: np.ndarray, k: int) -> float:
    """CKA over those pairs only that are among each other's k nearest in both spaces (Huh et al. 2024).

    Kernels are cosines; HSIC is the unbiased estimate (Song et al. 2012). 1 for equal sets, about 0 for unrelated ones.
    Raises ValueError unless N > k >= 2 and N > 3.
    """
    if not (len(first_NC) > max(k, 3) and k >= 2):
        raise ValueError(
            f"CKNNA with k {k} needs k of at least 2 and more patches than that, not {len(first_NC)}"
        )
    kernels = [_cosines(a) for a in (first_NC, second_ND)]
    near = [_nearest(kernel, k) for kernel in kernels]

    def alike(i: int, j: int) -> float:
        both = near[i] & near[j]
        return _hsic(kernels[i] * both, kernels[j] * both)

    return alike(0, 1) / max(alike(0, 0) * alike(1, 1), 1e-24) ** 0.5


def probe(
    fit_NC: np.ndarray, wanted_ND: np.ndarray, test_MC: np.ndarray, wanted_MD: np.ndarray
) -> float:
    """R^2 on held-out patches of a ridge regression from features to wanted features, all channels pooled; at most 1."""
    middle, spread = fit_NC.mean(0, dtype=np.float64), fit_NC.std(0, dtype=np.float64) + 1e-6
    x, y, target = (
        (fit_NC - middle) / spread,
        (wanted_ND - (mean := wanted_ND.mean(0, dtype=np.float64))),
        wanted_MD - mean,
    )
    weights = np.linalg.solve(x.T @ x + RIDGE * len(x) * np.eye(x.shape[1]), x.T @ y)
    left = target - ((test_MC - middle) / spread) @ weights
    return float(1 - (left**2).sum() / (_centred(wanted_MD) ** 2).sum())


def _centred(features: np.ndarray) -> np.ndarray:
    return np.asarray(features, np.float64) - features.mean(0, dtype=np.float64)


def _cosines(features: np.ndarray) -> torch.Tensor:
    unit = F.normalize(torch.from_numpy(np.asarray(features, np.float64)), dim=1)
    return (unit @ unit.T).fill_diagonal_(
        0
    )  # a patch is no neighbour of its own, and HSIC leaves the diagonal out


def _nearest(kernel_NN: torch.Tensor, k: int) -> torch.Tensor:
    others = kernel_NN.clone().fill_diagonal_(-torch.inf)
    return torch.zeros_like(kernel_NN, dtype=torch.bool).scatter_(
        1, others.topk(k, dim=1).indices, True
    )


def _hsic(first_NN: torch.Tensor, second_NN: torch.Tensor) -> float:
    """Unbiased HSIC of two kernels without their diagonals."""
    n = len(first_NN)
    trace = (first_NN * second_NN.T).sum()
    sums = first_NN.sum() * second_NN.sum() / ((n - 1) * (n - 2))
    crossed = 2 * (first_NN.sum(0) @ second_NN.sum(1)) / (n - 2)
    return float((trace + sums - crossed) / (n * (n - 3)))
