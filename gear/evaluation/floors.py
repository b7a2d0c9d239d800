"""Floors of metrics: the score of a perfect generator under the same protocol.

A perfect generator draws new images from the distribution of the training images. It does not score
0 or 1: metrics depend on the number of samples, and samples that are balanced over classes differ
from training images that are not. Floors are measured on real images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gear.evaluation.frechet import Gaussian
from gear.evaluation.metric_protocol import Absent

SPLITS = 8  # random splits that floors are averaged over


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
) -> Floor | Absent:
    """Estimate the FD of new real images, balanced over classes, to the training images.

    The FD of n images to m others is b + c (1/n + 1/m) to first order. b is the FD of all images,
    weighted so that classes are balanced, to all images unweighted. c follows from the FD of one
    random half, weighted alike, to the other half; a weighted half counts as
    1 / (sum of squared weights) images.

    Args:
        features_MC: Features of training images.
        labels: Their classes, (M,) int64.
        samples: Number of samples.
        reference: Number of training images that samples are compared with.
        seed: Of the random splits.
        splits: Number of random splits into halves.

    Returns:
        Absent if a half has no more images than features have channels: the covariance of so few is
        singular, and the floor would come out a fifth too low.
    """
    half = min(map(len, halves(labels, np.random.default_rng(seed))))
    channels = features_MC.shape[1]
    if half <= channels:
        return Absent(
            f"it needs more training images: half of them, {half}, have to be more than the "
            f"features have channels, {channels}"
        )
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
) -> Floor | Absent:
    """Estimate the score of new real images, balanced over classes, in a nearest-neighbour metric.

    Such a metric depends on the ratio of samples to training images, and little on their numbers.
    So it is computed between two disjoint sets of training images with sizes in that ratio.

    Args:
        metric: Function from features of training images and features of samples to the score.
        features_MC: Features of the training images that the metric uses.
        labels: Their classes, (M,) int64.
        samples: Number of samples.
        least: Minimum number of images in either set.
        seed: Of the random splits.

    Returns:
        The floor; Absent if there are too few training images.
    """
    values = []
    for number in range(SPLITS):
        random = np.random.default_rng([seed, number])
        rows, others = balanced_split(labels, samples / len(features_MC), random)
        if (few := min(len(rows), len(others))) < least:
            return Absent(
                f"it needs more training images: split into two sets, the smaller one has {few} "
                f"of them, and {least} are needed"
            )
        values.append(metric(features_MC[others], features_MC[rows]))
    return _mean(values)


def too_few(images: int, least: int) -> Absent:
    """Return why a floor cannot be computed of so few validation images."""
    return Absent(
        f"it needs {least} distinct validation images of the samples' captions, and there "
        f"{'is' if images == 1 else 'are'} {images}: a larger data.val_share holds out more"
    )


def balancing_weights(labels: np.ndarray) -> np.ndarray:
    """Return weights (M,) float64 that sum to 1, with an equal sum for each class.

    >>> balancing_weights(np.array([0, 0, 1])).tolist()
    [0.25, 0.25, 0.5]
    """
    _, places, counts = np.unique(labels, return_inverse=True, return_counts=True)
    result: np.ndarray = 1 / (len(counts) * counts[places])
    return result


def halves(labels: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of two random halves, int64; each class is halved."""
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
    """Return disjoint rows that stand for samples and for training images.

    The first are balanced over classes, the second distributed as `labels` are. They are as many as
    the class that runs out first allows.

    Args:
        labels: Classes, (M,) int64; each has at least two rows.
        ratio: Number of the first rows divided by that of the second.
        random: Generator for the choice of rows.
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
