"""Do samples agree with their captions? Retrieval among real images with the packaged encoder, against shuffled captions.

Not CLIPScore: no encoder here has seen text and images together. It asks which real image a sample looks most like, and whether
that one is what the caption asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gear import paths
from gear.data.rows import evenly_spaced
from gear.data.shards import load_manifest, read_split
from gear.encoders.efficientnet import Encoder, pooled_features
from gear.evaluation.metric import Metric
from gear.generator.conditions import SamplingSet, sampling_set
from gear.params import Config

DRAWS = 1000  # of the bootstrap, and of the shuffles behind the floor

LEVEL = 0.95


@dataclass(frozen=True)
class Agreement:
    """A score in [0, 1], its 95 % bootstrap interval over captions, and the floor: the mean score of shuffled captions."""

    score: float
    low: float
    high: float
    floor: float


def unit(features_NC: np.ndarray, mean_C: np.ndarray) -> np.ndarray:
    """Features centred on the reference's mean and scaled to length 1: cosines then tell images apart."""
    centred = np.asarray(features_NC, np.float64) - mean_C
    return centred / np.linalg.norm(centred, axis=1, keepdims=True).clip(min=1e-12)


def nearest_class(samples_NC: np.ndarray, real_MC: np.ndarray, labels_M: np.ndarray) -> np.ndarray:
    """Class of the real image nearest to each sample, (N,)."""
    return labels_M[(torch.from_numpy(samples_NC) @ torch.from_numpy(real_MC).T).argmax(1).numpy()]


def agreement_of_hits(
    hits: np.ndarray, captions_N: np.ndarray, shuffled_hits: np.ndarray
) -> Agreement:
    """Mean of `hits` (N,) over samples, its interval by resampling captions (samples of one caption are not independent).

    captions_N: which caption each sample had. shuffled_hits: mean scores of shuffled captions.
    """
    names, member = np.unique(captions_N, return_inverse=True)
    sums, counts = np.bincount(member, hits), np.bincount(member)
    random = np.random.default_rng(0)
    drawn = random.integers(0, len(names), (DRAWS, len(names)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Agreement(float(hits.mean()), float(low), float(high), float(np.mean(shuffled_hits)))


def category_agreement(
    found_N: np.ndarray, asked_N: np.ndarray, captions_N: np.ndarray
) -> Agreement:
    """Share of samples whose nearest real image has the class that the caption belongs to; the floor by shuffling whole captions."""
    names, first, member = np.unique(captions_N, return_index=True, return_inverse=True)
    random = np.random.default_rng(0)
    classes = asked_N[first]
    floor = [
        (found_N == classes[random.permutation(len(names))][member]).mean() for _ in range(DRAWS)
    ]
    return agreement_of_hits((found_N == asked_N).astype(np.float64), captions_N, np.array(floor))


def own_agreement(
    samples_NC: np.ndarray, real_MC: np.ndarray, own_N: np.ndarray, within: float
) -> Agreement:
    """Share of samples whose caption's own real image is among the nearest `within` of all; the floor is the same for shuffled captions.

    own_N: row of `real_MC` that each sample's caption belongs to; it names the caption too.
    """
    similarity = samples_NC @ real_MC.T
    ranks = np.argsort(np.argsort(-similarity, axis=1), axis=1) / len(
        real_MC
    )  # of every real image, for every sample
    names, member = np.unique(own_N, return_inverse=True)
    random = np.random.default_rng(0)
    rows = np.arange(len(own_N))
    floor = [
        (ranks[rows, names[random.permutation(len(names))][member]] < within).mean()
        for _ in range(DRAWS)
    ]
    return agreement_of_hits(
        (ranks[rows, own_N] < within).astype(np.float64), own_N, np.array(floor)
    )


WITHIN = 0.1  # of the real validation images: where a caption's own image must rank

ROWS = 5000  # samples and real images, at most, that retrieval compares


class Gallery:
    """Real images that samples are compared with: training images with classes, and the validation captions' own images."""

    def __init__(self, config: Config, encoder: Encoder, reference: Any) -> None:
        train, val = read_split(paths.SHARDS / "train"), read_split(paths.SHARDS / "val")
        chosen = evenly_spaced(len(train), ROWS)
        self.mean, self.classes = reference["mean"], len(load_manifest(paths.SHARDS)["classes"])
        self.train, self.labels = (
            unit(reference["features"][chosen], self.mean),
            train.labels[chosen],
        )
        self.val_rows = evenly_spaced(len(val), ROWS)
        features = pooled_features(encoder, val.part(self.val_rows), config.evaluate.input_size)
        self.val = unit(features, self.mean)

    def agree(
        self, features: np.ndarray, wanted: SamplingSet, base: dict[str, Any]
    ) -> dict[str, Metric]:
        """Agreement of samples, by their features, with the captions they were drawn for."""
        assert wanted.rows is not None
        place = np.full(int(self.val_rows.max()) + 1, -1)
        place[self.val_rows] = np.arange(len(self.val_rows))
        chosen = np.array(
            [
                i
                for i in evenly_spaced(len(features), ROWS)
                if wanted.rows[i] < len(place) and place[wanted.rows[i]] >= 0
            ]
        )
        samples, own = unit(features[chosen], self.mean), place[wanted.rows[chosen]]
        rule = {
            "by": "cosine of pooled features, centred on the training mean",
            "samples": len(chosen),
            "floor": "captions shuffled",
        }
        rule |= {"interval": "95 %, bootstrap over captions"}
        found = {
            f"retrieval_own_{WITHIN:.0%}": (
                own_agreement(samples, self.val, own, WITHIN),
                {
                    "hit": f"the caption's own image is among the nearest {WITHIN:.0%} of validation images",
                    "gallery": len(self.val),
                },
            )
        }
        if self.classes > 1:
            nearest = nearest_class(samples, self.train, self.labels)
            found["retrieval_category"] = (
                category_agreement(nearest, wanted.labels[chosen], own),
                {
                    "hit": "the nearest training image is of the caption's category",
                    "gallery": len(self.train),
                },
            )
        metrics: dict[str, Metric] = {}
        for name, (value, hit) in found.items():
            protocol = {**base, **rule, **hit}
            parts = {"": value.score, "_low": value.low, "_high": value.high, "_floor": value.floor}
            metrics |= {name + part: Metric(number, protocol) for part, number in parts.items()}
        return metrics


def sample_agreement(
    config: Config, gallery: Gallery, features: np.ndarray, base: dict[str, Any]
) -> dict[str, Metric]:
    """Agreement of the sample stage's images; nothing where the condition is the class."""
    wanted = sampling_set(config, len(features))
    return {} if wanted.rows is None else gallery.agree(features, wanted, base)
