"""FID, sFID, Inception score, precision, recall and rFID, each with its protocol."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch_fidelity.metric_isc import (
    KEY_METRIC_ISC_MEAN,
    KEY_METRIC_ISC_STD,
    isc_features_to_metric,
)

from gear.data.images import Pixels
from gear.encoders.inception import EXTRACTOR, RESIZE, Inception
from gear.evaluation.coverage import recall
from gear.evaluation.frechet import half_floor
from gear.evaluation.inception_statistics import (
    InceptionReference,
    TrainingStatistics,
    extract_statistics,
)
from gear.evaluation.metric_protocol import Metric
from gear.evaluation.reconstruction import Reconstructions
from gear.tokenizer.model import Tokenizer

NEIGHBOURS = 3
SPLITS = 10
SHUFFLE_SEED = 2020


def extractor_protocol(inception: Inception) -> dict[str, Any]:
    """Return the part of the protocol that all metrics over Inception share."""
    return {
        "extractor": EXTRACTOR,
        "weights_sha256": inception.weights_sha256,
        "resize": RESIZE,
        "rounding": "nearest uint8",
    }


def inception_score(logits_NC: np.ndarray) -> tuple[float, float]:
    """Return exp(E KL(p(y|x) || p(y))), Salimans et al. 2016.

    Mean and standard deviation over ten splits of the shuffled samples.
    """
    scores = isc_features_to_metric(
        torch.from_numpy(logits_NC), splits=SPLITS, shuffle=True, rng_seed=SHUFFLE_SEED
    )
    return scores[KEY_METRIC_ISC_MEAN], scores[KEY_METRIC_ISC_STD]


def sample_metrics(
    inception: Inception,
    samples: Pixels,
    reference: InceptionReference,
    training: TrainingStatistics,
    protocol: dict[str, Any],
    seed: int,
) -> dict[str, Metric]:
    """Return FID and its floor, precision and recall; also sFID and Inception score if possible.

    sFID needs spatial statistics in the reference, Inception score at least ten samples.

    protocol: how the samples were drawn. seed: of the split of training images for the floor.
    """
    statistics = extract_statistics(inception, samples, np.arange(len(samples)), "samples")
    base = {**extractor_protocol(inception), **protocol, "n": statistics.n}
    against = {**base, **reference.protocol}
    known = training.reference.protocol
    near = {**base, **known, "k": NEIGHBOURS, "reference_rows": len(training.features)}
    floor = {
        **extractor_protocol(inception),
        **known,
        "n": len(training.features) // 2,
        "against": "as many others",
        "seed": seed,
    }
    precision = recall(statistics.pooled, training.features, NEIGHBOURS)
    metrics = {
        "fid": Metric(statistics.pool.distance(reference.pool), against),
        "fid_floor": Metric(half_floor(training.features, seed), floor),
        "inception_precision": Metric(precision, near),
        "inception_recall": Metric(recall(training.features, statistics.pooled, NEIGHBOURS), near),
    }
    if reference.spatial is not None:
        layer = {**against, "features": "mixed_6/conv, 7 channels"}
        metrics["sfid"] = Metric(statistics.spatial.distance(reference.spatial), layer)
    if statistics.n >= SPLITS:
        mean, deviation = inception_score(statistics.logits)
        split = {**base, "splits": SPLITS, "shuffle_seed": SHUFFLE_SEED}
        metrics["inception_score"] = Metric(mean, split)
        metrics["inception_score_std"] = Metric(deviation, split)
    return metrics


def reconstruction_metrics(
    inception: Inception, tokenizer: Tokenizer, originals: Pixels, protocol: dict[str, Any]
) -> dict[str, Metric]:
    """Return `rfid`: FID of reconstructions to their originals; protocol: which images they are."""
    nothing = np.arange(0)
    rebuilt = extract_statistics(
        inception, Reconstructions(tokenizer, originals), nothing, "reconstructions"
    )
    given = extract_statistics(inception, originals, nothing, "their originals")
    measured = {**extractor_protocol(inception), **protocol, "n": given.n}
    return {"rfid": Metric(rebuilt.pool.distance(given.pool), measured)}
