"""Coverage and recall of samples by nearest neighbours in feature space."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from gear.data.rows import batches

ROWS = 1024  # of one side of a distance matrix held at a time


def _distances(a_NC: np.ndarray, b_MC: np.ndarray) -> Iterator[tuple[slice, torch.Tensor]]:
    """Euclidean distances of a few rows of `a` at a time to all of `b`, (rows, M) float64."""
    b = torch.from_numpy(np.asarray(b_MC, np.float64))
    for part in batches(len(a_NC), ROWS):
        yield part, torch.cdist(torch.from_numpy(np.asarray(a_NC[part], np.float64)), b)


def radii(features_NC: np.ndarray, k: int) -> np.ndarray:
    """Distance of each row to its k-th nearest other row, (N,)."""
    return np.concatenate(
        [d.kthvalue(k + 1, dim=1).values.numpy() for _, d in _distances(features_NC, features_NC)]
    )


def coverage(real_NC: np.ndarray, fake_MC: np.ndarray, k: int) -> float:
    """Share of real rows with a fake one inside their k-th-neighbour ball (Naeem et al. 2020)."""
    nearest_fake = np.concatenate(
        [d.min(1).values.numpy() for _, d in _distances(real_NC, fake_MC)]
    )
    return float((nearest_fake <= radii(real_NC, k)).mean())


def recall(real_NC: np.ndarray, fake_MC: np.ndarray, k: int) -> float:
    """Share of real rows inside some fake row's k-th-neighbour ball (Kynkäänniemi et al. 2019)."""
    reach = torch.from_numpy(radii(fake_MC, k))
    return float(
        np.concatenate(
            [(d <= reach).any(1).numpy() for _, d in _distances(real_NC, fake_MC)]
        ).mean()
    )


MANIFOLD_ROWS = (
    10_000  # of the reference, at most, in coverage and recall: their cost is its square
)
