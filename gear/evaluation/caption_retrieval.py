"""Agreement of samples with their captions, by retrieval among real images (packaged encoder).

This is not CLIPScore: the encoder has not seen text and images together. A sample agrees with its
caption if the real images that it resembles most fit the caption. Scores are compared with those of
shuffled captions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gear.core.ranks import ALONE, Ranks
from gear.data.captions import seen_captions
from gear.data.row_selection import evenly_spaced
from gear.data.shards import Split
from gear.encoders.efficientnet import Encoder, pooled_features
from gear.evaluation.efficientnet_reference import FeatureReference
from gear.evaluation.metric_protocol import Absent, Metric
from gear.generator.conditions import SamplingSet

RESAMPLES = 1000  # of the bootstrap, and of the shuffled captions
LEVEL = 0.95
WITHIN = 0.1  # top share of validation images in which a caption's own image must be
ROWS = 5000  # maximum number of samples, and of real images of a split
SEEN = "_seen"  # in names of metrics: of captions that are in the training split too


@dataclass(frozen=True)
class Agreement:
    """A score in [0, 1] with its 95 % bootstrap interval over captions.

    floor: Mean score of shuffled captions.
    """

    score: float
    low: float
    high: float
    floor: float


def unit(features_NC: np.ndarray, mean_C: np.ndarray) -> np.ndarray:
    """Return features minus the reference's mean, scaled to length 1, (N, C) float64."""
    centred = np.asarray(features_NC, np.float64) - mean_C
    result: np.ndarray = centred / np.linalg.norm(centred, axis=1, keepdims=True).clip(min=1e-12)
    return result


def nearest_class(samples_NC: np.ndarray, real_MC: np.ndarray, labels_M: np.ndarray) -> np.ndarray:
    """Return the class of the real image nearest to each sample, (N,), from features of `unit`."""
    similarity = torch.from_numpy(samples_NC) @ torch.from_numpy(real_MC).T
    result: np.ndarray = labels_M[similarity.argmax(1).numpy()]
    return result


def category_agreement(
    retrieved_N: np.ndarray, asked_N: np.ndarray, captions_N: np.ndarray
) -> Agreement:
    """Return the share of samples whose nearest real image has the class of their caption.

    Args:
        retrieved_N: Class of the real image nearest to each sample.
        asked_N: Class of each sample's caption.
        captions_N: Identifier of each sample's caption; for the floor, captions are shuffled as a
            whole.
    """
    _, first, member = np.unique(captions_N, return_index=True, return_inverse=True)
    classes = asked_N[first]
    return _agreement(
        retrieved_N == asked_N,
        captions_N,
        lambda order: retrieved_N == classes[order][member],
    )


def own_agreement(
    samples_NC: np.ndarray, real_MC: np.ndarray, own_N: np.ndarray, within: float
) -> Agreement:
    """Return the share of samples that are near the real image of their caption.

    Near means that it is among the share `within` of real images that are nearest to the sample.

    Args:
        samples_NC: Features of samples, by `unit`.
        real_MC: Features of real images, by `unit`.
        own_N: Row in `real_MC` of the image of each sample's caption.
        within: A share in (0, 1].
    """
    similarity = samples_NC @ real_MC.T
    ranks_NM = np.argsort(np.argsort(-similarity, axis=1), axis=1) / len(real_MC)
    names, member = np.unique(own_N, return_inverse=True)
    rows = np.arange(len(own_N))
    return _agreement(
        ranks_NM[rows, own_N] < within,
        own_N,
        lambda order: ranks_NM[rows, names[order][member]] < within,
    )


def _agreement(
    hits_N: np.ndarray, captions_N: np.ndarray, shuffled: Callable[[np.ndarray], np.ndarray]
) -> Agreement:
    """Return the agreement of hits; `shuffled` returns the hits for an order of the captions."""
    random = np.random.default_rng(0)
    captions = len(np.unique(captions_N))
    floor = [shuffled(random.permutation(captions)).mean() for _ in range(RESAMPLES)]
    return agreement_of_hits(hits_N.astype(np.float64), captions_N, np.array(floor))


def agreement_of_hits(
    hits_N: np.ndarray, captions_N: np.ndarray, shuffled_scores: np.ndarray
) -> Agreement:
    """Return the mean of hits over samples, with a bootstrap interval and the floor.

    Captions are resampled, since samples of one caption are not independent.

    Args:
        hits_N: Score of each sample, in [0, 1].
        captions_N: Identifier of each sample's caption.
        shuffled_scores: Mean scores of shuffled captions.
    """
    names, member = np.unique(captions_N, return_inverse=True)
    sums = np.bincount(member, hits_N)
    counts = np.bincount(member)
    rows = np.random.default_rng(0).integers(0, len(names), (RESAMPLES, len(names)))
    means = sums[rows].sum(1) / counts[rows].sum(1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    floor = float(np.mean(shuffled_scores))
    return Agreement(float(hits_N.mean()), float(low), float(high), floor)


def gallery_rows(own: np.ndarray, images: np.ndarray, most: int) -> np.ndarray:
    """Return the rows of a gallery, ascending: all of `own`, and evenly spaced others up to `most`.

    Args:
        own: Rows of the images of the samples' captions; they may repeat.
        images: Rows of all images.
        most: Maximum size, if there are no more of `own`.

    >>> gallery_rows(np.array([3, 3, 4]), np.arange(9), most=5).tolist()
    [0, 3, 4, 5, 8]
    """
    others = np.setdiff1d(images, own)
    room = max(0, most - len(np.unique(own)))
    return np.union1d(own, others[evenly_spaced(len(others), room)])


class Gallery:
    """Features of real images that samples are compared with.

    They are training images with their classes, and validation images: the own images of the
    samples' captions, and others up to `ROWS`. An image with several captions is in it once.
    """

    def __init__(
        self,
        train: Split,
        val: Split,
        encoder: Encoder,
        reference: FeatureReference,
        classes: int,
        ranks: Ranks = ALONE,
    ) -> None:
        rows = reference.distinct[evenly_spaced(len(reference.distinct), ROWS)]
        self.classes = classes
        self.mean = reference.gaussian.mean
        self.train = unit(reference.features[rows], self.mean)
        self.labels = train.labels[rows]
        self.seen = seen_captions(val.captions, train.captions)  # by validation row
        self._val, self._first_rows = val, val.first_rows()
        self._encoder, self._input_size, self._ranks = encoder, reference.input_size, ranks
        self._features: dict[bytes, np.ndarray] = {}  # by rows of the validation split

    def seen_count(self) -> Metric:
        """Return the number of validation captions that are training captions too."""
        protocol = {
            "split": "val",
            "n": len(self.seen),
            "rule": "equal to a caption of the training split, character by character",
        }
        return Metric(int(self.seen.sum()), protocol)

    def agreement(
        self, features_NC: np.ndarray, wanted: SamplingSet, protocol: dict[str, Any]
    ) -> dict[str, Metric | Absent]:
        """Return the agreement of samples with their captions, from features of the samples.

        Metrics are `retrieval_own_10%` and, with more than one class, `retrieval_category`, each
        with `_low`, `_high` and `_floor`. They are of the samples of held-out captions. Those of
        captions that are in the training split too have names with `_seen` before the suffix.
        """
        assert wanted.rows is not None
        seen = self.seen[wanted.rows]
        metrics = self._agreement(features_NC, wanted, np.flatnonzero(~seen), protocol, "")
        if seen.any():
            metrics |= self._agreement(features_NC, wanted, np.flatnonzero(seen), protocol, SEEN)
        return metrics

    def _agreement(
        self,
        features_NC: np.ndarray,
        wanted: SamplingSet,
        members: np.ndarray,
        protocol: dict[str, Any],
        suffix: str,
    ) -> dict[str, Metric | Absent]:
        """Return the agreement of the samples `members`; `suffix` is added to the names."""
        assert wanted.rows is not None
        names = {"own": f"retrieval_own_{WITHIN:.0%}{suffix}"}
        if self.classes > 1:
            names["category"] = f"retrieval_category{suffix}"
        rows = members[evenly_spaced(len(members), ROWS)]
        own_rows = self._first_rows[wanted.rows[rows]]
        if len(np.unique(own_rows)) < 2:
            return dict.fromkeys(names.values(), _too_few(len(np.unique(own_rows)), suffix))
        gallery = gallery_rows(own_rows, np.unique(self._first_rows), ROWS)
        own = np.searchsorted(gallery, own_rows)
        samples = unit(features_NC[rows], self.mean)
        base = {
            **protocol,
            "by": "cosine of pooled features, centred on the training mean",
            "captions": "in the training split too" if suffix else "not in the training split",
            "samples": len(rows),
            "floor": "captions shuffled",
            "interval": "95 %, bootstrap over captions",
        }
        near = np.arange(len(gallery)) / len(gallery) < WITHIN
        metrics = _metrics(
            names["own"],
            own_agreement(samples, self._gallery_features(gallery), own, WITHIN),
            {
                **base,
                "hit": "the caption's own image is among the nearest "
                f"{WITHIN:.0%} of validation images",
                "gallery": len(gallery),
                "chance": float(near.mean()),
            },
        )
        if self.classes > 1:
            nearest = nearest_class(samples, self.train, self.labels)
            metrics |= _metrics(
                names["category"],
                category_agreement(nearest, wanted.labels[rows], own),
                {
                    **base,
                    "hit": "the nearest training image is of the caption's category",
                    "gallery": len(self.train),
                },
            )
        return metrics

    def _gallery_features(self, rows: np.ndarray) -> np.ndarray:
        """Return features of validation images by `unit`; they are kept for other samples."""
        key = rows.tobytes()
        if key not in self._features:
            images = self._val.part(rows)
            features = pooled_features(self._encoder, images, self._input_size, self._ranks)
            self._features[key] = unit(features, self.mean)
        return self._features[key]


def _too_few(images: int, suffix: str) -> Absent:
    which = "are training captions too" if suffix else "are held out"
    return Absent(
        f"it needs samples of two captions that {which}, with different images, and there "
        f"{'is one' if images else 'are none'}"
    )


def _metrics(name: str, value: Agreement, protocol: dict[str, Any]) -> dict[str, Metric | Absent]:
    parts = {"": value.score, "_low": value.low, "_high": value.high, "_floor": value.floor}
    return {name + part: Metric(number, protocol) for part, number in parts.items()}
