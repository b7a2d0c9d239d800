"""FID, sFID, Inception score, precision and recall, and rFID, each with its protocol. All over Inception-v3 (inception.py)."""

from __future__ import annotations

from dataclasses import dataclass
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
from gear.evaluation.inception_statistics import Reference, Training, extract_statistics
from gear.evaluation.metric import Metric
from gear.tokenizer.inference import decode_tokens, encode_images
from gear.tokenizer.model import Tokenizer

NEIGHBOURS, SPLITS, SHUFFLE_SEED = 3, 10, 2020


def extractor_protocol(inception: Inception) -> dict[str, Any]:
    """What every metric over Inception has in its protocol."""
    return {
        "extractor": EXTRACTOR,
        "weights_sha256": inception.weights_sha256,
        "resize": RESIZE,
        "rounding": "nearest uint8",
    }


def inception_score(logits_NC: np.ndarray) -> tuple[float, float]:
    """exp(E KL(p(y|x) || p(y))), Salimans et al. 2016: mean and deviation over ten splits of the shuffled samples."""
    scores = isc_features_to_metric(
        torch.from_numpy(logits_NC), splits=SPLITS, shuffle=True, rng_seed=SHUFFLE_SEED
    )
    return scores[KEY_METRIC_ISC_MEAN], scores[KEY_METRIC_ISC_STD]


@dataclass(frozen=True)
class Rebuilt:
    """A tokenizer's reconstructions of images, made when they are asked for."""

    tokenizer: Tokenizer
    originals: Pixels

    def __len__(self) -> int:
        return len(self.originals)

    def __getitem__(self, part: slice) -> np.ndarray:
        return decode_tokens(self.tokenizer, encode_images(self.tokenizer, self.originals[part]))


def of_samples(
    inception: Inception,
    samples: Pixels,
    reference: Reference,
    training: Training,
    drawn: dict[str, Any],
    seed: int,
) -> dict[str, Metric]:
    """FID, sFID, IS, precision and recall of samples; `drawn`: how they were drawn; `seed` splits the training images for the floor."""
    seen = extract_statistics(inception, samples, np.arange(len(samples)), "samples")
    base = {**extractor_protocol(inception), **drawn, "n": seen.n}
    against = {**base, **reference.named}
    near = {**base, **training.named, "k": NEIGHBOURS, "reference_rows": len(training.features)}
    floor = {
        **extractor_protocol(inception),
        **training.named,
        "n": len(training.features) // 2,
        "against": "as many others",
        "seed": seed,
    }
    metrics = {
        "fid": Metric(seen.pool.distance(reference.pool), against),
        "fid_floor": Metric(half_floor(training.features, seed), floor),
        "inception_precision": Metric(recall(seen.pooled, training.features, NEIGHBOURS), near),
        "inception_recall": Metric(recall(training.features, seen.pooled, NEIGHBOURS), near),
    }
    if reference.spatial is not None:
        metrics["sfid"] = Metric(
            seen.spatial.distance(reference.spatial),
            {**against, "features": "mixed_6/conv, 7 channels"},
        )
    if seen.n >= SPLITS:
        mean, deviation = inception_score(seen.logits)
        split = {**base, "splits": SPLITS, "shuffle_seed": SHUFFLE_SEED}
        metrics |= {
            "inception_score": Metric(mean, split),
            "inception_score_std": Metric(deviation, split),
        }
    return metrics


def of_reconstructions(
    inception: Inception, tokenizer: Tokenizer, originals: Pixels, named: dict[str, Any]
) -> dict[str, Metric]:
    """rFID: reconstructions against the images they were made from; `named`: which these are."""
    nothing = np.arange(0)
    rebuilt = extract_statistics(
        inception, Rebuilt(tokenizer, originals), nothing, "reconstructions"
    )
    given = extract_statistics(inception, originals, nothing, "their originals")
    return {
        "rfid": Metric(
            rebuilt.pool.distance(given.pool),
            {**extractor_protocol(inception), **named, "n": given.n},
        )
    }
