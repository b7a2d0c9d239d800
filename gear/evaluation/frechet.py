"""Fréchet distance between Gaussians fitted to features.

Over the features of any network but Inception-v3 it is named FD(extractor), not FID.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gear.core.errors import InputError


@dataclass(frozen=True)
class Gaussian:
    """Mean (C,) and unbiased covariance (C, C) of features, float64."""

    mean: np.ndarray
    covariance: np.ndarray

    @classmethod
    def fit(cls, features_NC: np.ndarray) -> Gaussian:
        """Return the Gaussian of features (N, C).

        Raises:
            ValueError: if the features have another number of axes, or N is less than two.
        """
        features = np.asarray(features_NC, dtype=np.float64)
        if features.ndim != 2:
            raise ValueError(f"features of shape {features.shape}: give (N, C)")
        if len(features) < 2:
            raise ValueError(f"statistics need at least two feature rows, not {len(features)}")
        # the covariance of one channel is a bare number in NumPy
        return cls(features.mean(0), np.atleast_2d(np.cov(features, rowvar=False)))

    @classmethod
    def fit_weighted(cls, features_NC: np.ndarray, weights_N: np.ndarray) -> Gaussian:
        """Return the Gaussian of weighted features; weights sum to 1, equal ones give `fit`."""
        features = np.asarray(features_NC, dtype=np.float64)
        mean = weights_N @ features
        centred = features - mean
        scale = 1 - float((weights_N**2).sum())
        return cls(mean, (centred * weights_N[:, None]).T @ centred / scale)

    def distance(self, other: Gaussian) -> float:
        """Return the Fréchet distance to another Gaussian."""
        return frechet_distance(self.mean, self.covariance, other.mean, other.covariance)


def frechet_distance(
    mean1: np.ndarray, cov1: np.ndarray, mean2: np.ndarray, cov2: np.ndarray
) -> float:
    """Return |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), Heusel et al. 2017, equation 6.

    Means are (C,), covariances (C, C). tr (C1 C2)^(1/2) is computed as the sum of square roots of
    the eigenvalues of the symmetric matrix C1^(1/2) C2 C1^(1/2).

    >>> frechet_distance(np.zeros(2), np.diag([4.0, 9.0]), np.ones(2), np.eye(2))
    7.0
    """
    values, vectors = np.linalg.eigh(cov1)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ cov2 @ root).clip(min=0)).sum()
    return float(((mean1 - mean2) ** 2).sum() + np.trace(cov1) + np.trace(cov2) - 2 * cross)


def distance(features1_NC: np.ndarray, features2_MC: np.ndarray) -> float:
    """Return the Fréchet distance of two sets of features, (N, C) and (M, C).

    Raises:
        InputError: if a feature is not a finite real number, features are too large for
            their distance to be finite, or the sets have different numbers of channels, or none.
        ValueError: if a set has another number of axes, or fewer than two rows.
    """
    _require_finite(features1_NC, "the first set")
    _require_finite(features2_MC, "the second set")
    with np.errstate(over="ignore", invalid="ignore"):
        first, second = Gaussian.fit(features1_NC), Gaussian.fit(features2_MC)
    if len(first.mean) != len(second.mean) or not len(first.mean):
        raise InputError(
            f"features of {len(first.mean)} and of {len(second.mean)} channels: "
            "give two sets of the same network"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        try:
            found = first.distance(second)
        except np.linalg.LinAlgError:
            found = np.nan
    if not np.isfinite(found):
        raise InputError("features: their distance is not a finite number: they are too large")
    return found


def _require_finite(features_NC: np.ndarray, name: str) -> None:
    if np.iscomplexobj(features_NC):
        raise InputError(f"features: {name} has complex numbers: give real ones")
    places = np.argwhere(~np.isfinite(np.asarray(features_NC, dtype=np.float64)))
    if places.size:
        row = places[0][0]
        raise InputError(f"features: row {row} of {name} has a value that is not finite")
