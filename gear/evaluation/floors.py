"""The floor of a metric: what a perfect generator would score under the same protocol.

A perfect generator draws new images of the distribution that the training images come from. It
does not score 0 or 1: metrics depend on the number of samples, and samples that are balanced over
classes differ from training images that are not. Floors are measured on real images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gear.evaluation.frechet import Gaussian

SPLITS = 8  # random ones, over which floors are means


@dataclass(frozen=True)
class Floor:
    """A floor, and its standard deviation over random splits of the training images."""

    value: float
    deviation: float


def fd_floor(
    features_MC: np.ndarray,
    labels: np.ndarray,
    *,
    samples: int,
    reference: int,
    seed: int,
    splits: int = SPLITS,
) -> Floor | None:
    """Return the FD to the training images of new images that are balanced over classes.

    FD of n images to m others is b + c (1/n + 1/m) to first order. b is the FD of all images,
    weighted so that classes are balanced, to all images. c follows from the FD of one random half,
    weighted alike, to the other; a weighted half counts as 1 / (sum of squared weights) images.

    Args:
        features_MC: Features of training images.
        labels: Their classes, (M,) int64.
        samples: Number of samples.
        reference: Number of training images that samples are compared with.
        seed: Of the random halves.
        splits: Number of random splits into halves.

    Returns:
        None if a half has no more images than features have channels: the covariance of so few is
        singular, and the floor would come out a fifth too low.
    """
    if min(map(len, halves(labels, np.random.default_rng(seed)))) <= features_MC.shape[1]:
        return None
    every = Gaussian.fit(features_MC)
    balanced = Gaussian.fit_weighted(features_MC, balancing_weights(labels))
    imbalance = balanced.distance(every)
    values = []
    for number in range(splits):
        first, second = halves(labels, np.random.default_rng([seed, number]))
        weights = balancing_weights(labels[first])
        distance = Gaussian.fit_weighted(features_MC[first], weights).distance(
            Gaussian.fit(features_MC[second])
        )
        inverse = float((weights**2).sum()) + 1 / len(second)
        slope = (distance - imbalance) / inverse
        values.append(imbalance + slope * (1 / samples + 1 / reference))
    return _mean(values)


def neighbour_floor(
    metric: Callable[[np.ndarray, np.ndarray], float],
    features_MC: np.ndarray,
    labels: np.ndarray,
    *,
    samples: int,
    least: int,
    seed: int,
) -> Floor | None:
    """Return what new images, balanced over classes, score in a metric over nearest neighbours.

    Such a metric depends on the proportion of samples and training images and hardly on their
    number, so some training images play the samples, and others the training images.

    Args:
        metric: Features of training images and of samples to the score.
        features_MC: Features of the training images that the metric uses.
        labels: Their classes, (M,) int64.
        samples: Number of samples.
        least: Number of images that the metric needs on either side.
        seed: Of the random splits.

    Returns:
        None if there are too few training images.
    """
    values = []
    for number in range(SPLITS):
        random = np.random.default_rng([seed, number])
        rows, others = balanced_split(labels, samples / len(features_MC), random)
        if min(len(rows), len(others)) < least:
            return None
        values.append(metric(features_MC[others], features_MC[rows]))
    return _mean(values)


def balancing_weights(labels: np.ndarray) -> np.ndarray:
    """Return weights (M,) that sum to 1 and give each class the same sum.

    >>> balancing_weights(np.array([0, 0, 1])).tolist()
    [0.25, 0.25, 0.5]
    """
    _, places, counts = np.unique(labels, return_inverse=True, return_counts=True)
    result: np.ndarray = 1 / (len(counts) * counts[places])
    return result


def halves(labels: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of two random halves of each class."""
    first: list[np.ndarray] = []
    second: list[np.ndarray] = []
    for label in np.unique(labels):
        rows = random.permutation(np.flatnonzero(labels == label))
        middle = (len(rows) + 1) // 2
        first.append(rows[:middle])
        second.append(rows[middle:])
    return np.concatenate(first), np.concatenate(second)


def balanced_split(
    labels: np.ndarray, ratio: float, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return rows that play samples, and other rows that play the training images.

    The first are balanced over classes, the others distributed as `labels` are. They are as many
    as the rarest class allows.

    Args:
        labels: Classes, (M,) int64; each has at least two rows.
        ratio: Number of the first over that of the others.
        random: Of the random choice.
    """
    classes, counts = np.unique(labels, return_counts=True)
    shares = counts / len(labels)
    most = float((counts / (1 / len(classes) + shares / ratio)).min())
    per_class = max(1, int(most / len(classes)))
    others_in_all = per_class * len(classes) / ratio
    first: list[np.ndarray] = []
    others: list[np.ndarray] = []
    for label, share in zip(classes, shares, strict=True):
        rows = random.permutation(np.flatnonzero(labels == label))
        end = per_class + max(1, round(others_in_all * share))
        first.append(rows[:per_class])
        others.append(rows[per_class:end])
    return np.concatenate(first), np.concatenate(others)


def _mean(values: list[float]) -> Floor:
    return Floor(float(np.mean(values)), float(np.std(values, ddof=1)))
