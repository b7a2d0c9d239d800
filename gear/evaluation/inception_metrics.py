"""FID, sFID, Inception score, precision, recall and rFID, each with its protocol."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from gear.core.ranks import ALONE, Ranks
from gear.data.images import Pixels
from gear.encoders.inception import EXTRACTOR, RESIZE, Inception
from gear.evaluation.coverage import recall
from gear.evaluation.floors import fd_floor, too_few
from gear.evaluation.inception_statistics import (
    InceptionReference,
    TrainingStatistics,
    extract_statistics,
)
from gear.evaluation.metric_protocol import DISTINCT, Absent, Metric
from gear.evaluation.reconstruction import Reconstructions
from gear.tokenizer.model import Tokenizer

NEIGHBOURS = 3
SPLITS = 10
FLOOR_SPLITS = 2  # few, since a distance of 2048 channels takes seconds
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
    """Return mean and standard deviation of the Inception score over ten splits.

    The score is exp(E KL(p(y|x) || p(y))) (Salimans et al. 2016), in [1, C]. Of few samples it is
    too low: that of N samples is at most N / 10. Samples are shuffled with a fixed seed before they
    are split.

    Args:
        logits_NC: Logits of at least ten samples.
    """
    from torch_fidelity.metric_isc import (
        KEY_METRIC_ISC_MEAN,
        KEY_METRIC_ISC_STD,
        isc_features_to_metric,
    )

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
    own_images: Pixels | None = None,
    ranks: Ranks = ALONE,
) -> dict[str, Metric | Absent]:
    """Return FID and its floor, precision and recall; also sFID and Inception score if possible.

    sFID needs spatial statistics in the reference, Inception score at least ten samples.

    Args:
        inception: The network.
        samples: The samples.
        reference: Statistics for FID and sFID.
        training: The training images.
        protocol: How the samples were drawn.
        seed: Of the random splits of training images for the floor.
        own_images: The distinct images of the samples' captions; None if samples are balanced over
            classes.
        ranks: Share the work.
    """
    statistics = extract_statistics(inception, samples, np.arange(len(samples)), "samples", ranks)
    base = {**extractor_protocol(inception), **protocol, "n": statistics.n}
    against = {**base, **reference.protocol}
    known = training.reference.protocol
    near = {**base, **known, "k": NEIGHBOURS, "reference_rows": len(training.features)}
    precision = recall(statistics.pooled, training.features, NEIGHBOURS)
    metrics: dict[str, Metric | Absent] = {
        "fid": Metric(statistics.pool.distance(reference.pool), against),
        "inception_precision": Metric(precision, near),
        "inception_recall": Metric(recall(training.features, statistics.pooled, NEIGHBOURS), near),
    }
    metrics["fid_floor"] = _fid_floor(inception, training, statistics.n, seed, own_images, ranks)
    if reference.spatial is None:
        metrics["sfid"] = Absent(
            "the reference statistics have no spatial features (mu_s, sigma_s)"
        )
    else:
        layer = {**against, "features": "mixed_6/conv, 7 channels"}
        metrics["sfid"] = Metric(statistics.spatial.distance(reference.spatial), layer)
    if statistics.n < SPLITS:
        metrics["inception_score"] = Absent(f"it needs a sample for each of {SPLITS} splits")
    else:
        mean, deviation = inception_score(statistics.logits)
        split = {**base, "splits": SPLITS, "shuffle_seed": SHUFFLE_SEED}
        metrics["inception_score"] = Metric(mean, split)
        metrics["inception_score_std"] = Metric(deviation, split)
    return metrics


def _fid_floor(
    inception: Inception,
    training: TrainingStatistics,
    samples: int,
    seed: int,
    own_images: Pixels | None,
    ranks: Ranks,
) -> Metric | Absent:
    """Return the FID of real images, as a perfect generator would draw, to the training images."""
    protocol = {**extractor_protocol(inception), **training.reference.protocol, "n": samples}
    if own_images is not None:
        images = len(own_images)
        if images < 2:
            return too_few(images, 2)
        nothing = np.arange(0)
        real = extract_statistics(inception, own_images, nothing, "images of the captions", ranks)
        protocol |= {
            "n": images,
            "images": "the validation images of the captions",
            DISTINCT: images,
        }
        return Metric(real.pool.distance(training.reference.pool), protocol)
    floor = fd_floor(
        training.features,
        training.labels,
        samples=samples,
        reference=int(training.reference.protocol["reference_n"]),
        seed=seed,
        splits=FLOOR_SPLITS,
    )
    if isinstance(floor, Absent):
        return floor
    protocol |= {"images": "training images, splits of them", "splits": FLOOR_SPLITS}
    return Metric(floor.value, {**protocol, "deviation": floor.deviation, "seed": seed})


def reconstruction_metrics(
    inception: Inception,
    tokenizer: Tokenizer,
    originals: Pixels,
    protocol: dict[str, Any],
    ranks: Ranks = ALONE,
) -> dict[str, Metric | Absent]:
    """Return `rfid`, the FID of reconstructions to their originals.

    protocol: Which images the originals are.
    """
    if len(originals) < 2:
        return {"rfid": Absent(f"a covariance needs two images, and there are {len(originals)}")}
    nothing = np.arange(0)
    rebuilt = extract_statistics(
        inception, Reconstructions(tokenizer, originals), nothing, "reconstructions", ranks
    )
    given = extract_statistics(inception, originals, nothing, "their originals", ranks)
    measured = {**extractor_protocol(inception), **protocol, "n": given.n}
    return {"rfid": Metric(rebuilt.pool.distance(given.pool), measured)}
