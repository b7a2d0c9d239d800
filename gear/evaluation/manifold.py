"""How samples lie among the data: coverage, recall, and copies of training images."""

from __future__ import annotations

import numpy as np
import torch


def pairwise(a_NC: np.ndarray, b_MC: np.ndarray) -> np.ndarray:
    """Euclidean distances (N, M), float64."""
    return torch.cdist(torch.from_numpy(np.asarray(a_NC, np.float64)), torch.from_numpy(np.asarray(b_MC, np.float64))).numpy()


def radii(features_NC: np.ndarray, k: int) -> np.ndarray:
    """Distance of each row to its k-th nearest other row, (N,)."""
    return np.partition(pairwise(features_NC, features_NC), k, axis=1)[:, k]


def coverage(real_NC: np.ndarray, fake_MC: np.ndarray, k: int) -> float:
    """Share of real rows with a fake one inside their k-th-neighbour ball (Naeem et al. 2020)."""
    return float((pairwise(real_NC, fake_MC).min(1) <= radii(real_NC, k)).mean())


def recall(real_NC: np.ndarray, fake_MC: np.ndarray, k: int) -> float:
    """Share of real rows inside some fake row's k-th-neighbour ball (Kynkäänniemi et al. 2019)."""
    return float((pairwise(real_NC, fake_MC) <= radii(fake_MC, k)[None]).any(1).mean())


def copy_threshold(val_to_train: np.ndarray) -> float:
    """A distance so small that 1 % of unseen validation images lie closer to the training set: closer is called a copy."""
    return float(np.quantile(val_to_train, 0.01))


def nearest(a_NP: np.ndarray, b_MP: np.ndarray) -> np.ndarray:
    """Root-mean-square pixel distance of each row of `a` to its nearest row of `b`, (N,); uint8 images of one shape."""
    a, b = (torch.from_numpy(x.reshape(len(x), -1).astype(np.float32)) for x in (a_NP, b_MP))
    return torch.cat([torch.cdist(part, b).min(1).values for part in a.split(256)]).numpy() / a.shape[1] ** 0.5
