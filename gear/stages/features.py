"""Stage features: teacher features and reference statistics, computed once."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gear import paths
from gear.alignment.teachers import EXTRACTOR, build_encoder
from gear.config import Config
from gear.data.shards import read_split
from gear.evaluation.frechet import half_floor, statistics
from gear.evaluation.models import patch_features, pooled_features
from gear.stages.files import replace_folder, write_json


def run(config: Config) -> None:
    """`data/shards` → `data/features`: train.npy (N, views, L, 112) float16; reference.npz and val.npz pooled."""
    encoder, size = build_encoder(), config.teacher.input_size
    train, val = read_split(paths.SHARDS / "train"), read_split(paths.SHARDS / "val")
    pixels = train.images(np.arange(len(train)))
    views = [pixels, np.ascontiguousarray(pixels[:, :, ::-1])] if config.data.flip else [pixels]
    features = np.stack([patch_features(encoder, v, size, config.grid, f"teacher view {i}") for i, v in enumerate(views)], axis=1)
    pooled = pooled_features(encoder, pixels, size)
    mean, covariance = statistics(pooled)

    def fill(draft: Path) -> None:
        np.save(draft / "train.npy", features)
        np.savez(draft / "reference.npz", mean=mean, cov=covariance, features=pooled, floor=half_floor(pooled, config.run.seed))
        np.savez(draft / "val.npz", features=pooled_features(encoder, val.images(np.arange(len(val))), size))
        protocol = {
            "extractor": EXTRACTOR,
            "weights_sha256": encoder.weights_sha256,
            "input_size": size,
            "resize": "bicubic, antialias, clamped",
            "pooling": "mean over space",
            "reference_n": len(train),
        }
        write_json(draft / "protocol.json", protocol)

    replace_folder(paths.FEATURES, fill)
    print(f"teacher features {features.shape}, {features.nbytes / 2**20:.0f} MiB")
