"""Coverage and recall of samples by nearest neighbours in feature space."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from gear.data.row_selection import batches

ROWS = 1024  # of one side of a distance matrix held at a time


def coverage(real_NC: np.ndarray, fake_MC: np.ndarray, k: int) -> float:
    """Return the share of real rows with a fake row inside their k-th-neighbour ball, in [0, 1].

    Naeem et al. 2020, equation 6.

    >>> real = np.array([[0.0], [1.0], [2.0], [10.0], [11.0], [12.0]])
    >>> coverage(real, np.array([[0.5], [1.5]]), k=1)
    0.5
    """
    nearest = [d.min(1).values.numpy() for d in _distances(real_NC, fake_MC)]
    return float((np.concatenate(nearest) <= radii(real_NC, k)).mean())


def recall(real_NC: np.ndarray, fake_MC: np.ndarray, k: int) -> float:
    """Return the share of real rows inside the k-th-neighbour ball of some fake row, in [0, 1].

    Kynkäänniemi et al. 2019, equation 2. With real and fake rows exchanged it is precision.

    >>> real = np.array([[0.0], [1.0], [2.0], [10.0]])
    >>> recall(real, np.array([[0.5], [1.5]]), k=1)
    0.75
    """
    reach = torch.from_numpy(radii(fake_MC, k))
    inside = [(d <= reach).any(1).numpy() for d in _distances(real_NC, fake_MC)]
    return float(np.concatenate(inside).mean())


def radii(features_NC: np.ndarray, k: int) -> np.ndarray:
    """Return the distance of each row to its k-th nearest other row, (N,) float64.

    >>> radii(np.array([[0.0], [1.0], [2.0], [10.0]]), k=1).tolist()
    [1.0, 1.0, 1.0, 8.0]
    """
    kth = [d.kthvalue(k + 1, dim=1).values.numpy() for d in _distances(features_NC, features_NC)]
    return np.concatenate(kth)


def _distances(a_NC: np.ndarray, b_MC: np.ndarray) -> Iterator[torch.Tensor]:
    """Yield Euclidean distances of a few rows of `a` at a time to all of `b`, (rows, M) float64."""
    b = torch.from_numpy(np.asarray(b_MC, np.float64))
    for part in batches(len(a_NC), ROWS):
        yield torch.cdist(torch.from_numpy(np.asarray(a_NC[part], np.float64)), b)
