"""Stage reference: statistics of the training images, with which samples are compared."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gear import paths
from gear.core.device import pick_device
from gear.core.files import replace_folder, write_json
from gear.data.shards import read_split
from gear.encoders.efficientnet import EXTRACTOR, build_encoder, pooled_features
from gear.encoders.inception import build_inception
from gear.evaluation.frechet import half_floor, statistics
from gear.evaluation.inception_statistics import save_training
from gear.params import Config


def run(config: Config) -> None:
    """Write `data/reference` from `data/shards`.

    efficientnet-lite0.npz: pooled features of the FD extractor, their mean and covariance, the FD
    between two halves, and the input size; protocol.json: how they were computed;
    inception.npz, inception.json: the same over Inception-v3, if `evaluate.inception` names weights.
    """
    device, train = pick_device(config.host), read_split(paths.SHARDS / "train")
    encoder, input_size = build_encoder().to(device), config.evaluate.input_size
    weights = config.evaluate.inception
    inception = build_inception(weights).to(device) if weights.path else None

    def fill(draft: Path) -> None:
        features = pooled_features(encoder, train, input_size)
        mean, covariance = statistics(features)
        np.savez(
            draft / "efficientnet-lite0.npz",
            mean=mean,
            cov=covariance,
            features=features,
            floor=half_floor(features, config.run.seed),
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
        write_json(draft / "protocol.json", protocol)
        if inception is not None:
            save_training(draft, inception, train)

    replace_folder(paths.REFERENCE, fill)
