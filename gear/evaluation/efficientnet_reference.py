"""Features of the training images that FD, coverage and recall compare samples with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gear.core.files import write_json
from gear.core.ranks import ALONE, Ranks
from gear.data.row_selection import evenly_spaced
from gear.data.shards import Split
from gear.encoders.efficientnet import EXTRACTOR, Encoder, pooled_features
from gear.evaluation.frechet import Gaussian

FILE = "efficientnet-lite0.npz"
NEIGHBOUR_ROWS = 10_000  # at most, in coverage and recall, whose cost is quadratic


@dataclass(frozen=True)
class FeatureReference:
    """Pooled features of the training images.

    gaussian: fitted to all of them.
    features: (N, C) float32.
    input_size: side in pixels to which images are resized for the encoder.
    distinct: ascending rows of distinct images, for nearest neighbours and floors. An image with
        several captions is in several rows.
    """

    gaussian: Gaussian
    features: np.ndarray
    input_size: int
    distinct: np.ndarray

    def fd(self, features_NC: np.ndarray) -> float:
        """Return the Fréchet distance of features to the training images."""
        return Gaussian.fit(features_NC).distance(self.gaussian)

    @property
    def neighbour_positions(self) -> np.ndarray:
        """Rows of evenly spaced distinct images, at most `NEIGHBOUR_ROWS`."""
        result: np.ndarray = self.distinct[evenly_spaced(len(self.distinct), NEIGHBOUR_ROWS)]
        return result

    @property
    def neighbour_rows(self) -> np.ndarray:
        """Their features, for nearest-neighbour metrics."""
        result: np.ndarray = self.features[self.neighbour_positions]
        return result


def save_feature_reference(
    folder: Path, encoder: Encoder, train: Split, input_size: int, ranks: Ranks = ALONE
) -> None:
    """Write features of the training images, and protocol.json, to `folder`; rank zero writes."""
    features = pooled_features(encoder, train, input_size, ranks)
    if not ranks.is_rank_zero:
        return
    gaussian = Gaussian.fit(features)
    np.savez(
        folder / FILE,
        mean=gaussian.mean,
        cov=gaussian.covariance,
        features=features,
        input_size=input_size,
    )
    protocol = {
        "extractor": EXTRACTOR,
        "weights_sha256": encoder.weights_sha256,
        "input_size": input_size,
        "resize": "bicubic, antialias, clamped",
        "pooling": "mean over space",
        "reference_n": len(train),
    }
    write_json(folder / "protocol.json", protocol)


def load_feature_reference(folder: Path, distinct: np.ndarray | None = None) -> FeatureReference:
    """Return what `save_feature_reference` wrote to `folder`.

    distinct: ascending rows of distinct training images; None for all rows.
    """
    with np.load(folder / FILE, allow_pickle=False) as file:
        features = file["features"]
        return FeatureReference(
            Gaussian(file["mean"], file["cov"]),
            features,
            int(file["input_size"]),
            np.arange(len(features)) if distinct is None else distinct,
        )
