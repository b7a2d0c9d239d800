"""Stage features: teacher features and reference statistics, computed once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from gear import paths
from gear.alignment.teachers import EXTRACTOR, WIDTH, Encoder, build_encoder, on_grid
from gear.config import Config
from gear.data.pixels import ENCODER_BATCH, batches, to_tensor
from gear.data.shards import Split, read_split
from gear.device import pick_device
from gear.evaluation.frechet import half_floor, statistics
from gear.stages.files import replace_folder, write_json


def run(config: Config) -> None:
    """`data/shards` → `data/features`: train.npy (N, views, L, 112) float16, and reference.npz of features pooled over space."""
    encoder = build_encoder().to(pick_device(config))
    train = read_split(paths.SHARDS / "train")

    def fill(draft: Path) -> None:
        pooled = _extract(config, encoder, train, draft / "train.npy")
        mean, covariance = statistics(pooled)
        np.savez(draft / "reference.npz", mean=mean, cov=covariance, features=pooled, floor=half_floor(pooled, config.run.seed))
        protocol = {
            "extractor": EXTRACTOR,
            "weights_sha256": encoder.weights_sha256,
            "input_size": config.teacher.input_size,
            "resize": "bicubic, antialias, clamped",
            "pooling": "mean over space",
            "reference_n": len(train),
        }
        write_json(draft / "protocol.json", protocol)

    replace_folder(paths.FEATURES, fill)


@torch.inference_mode()
def _extract(config: Config, encoder: Encoder, train: Split, file: Path) -> np.ndarray:
    """Write every image's features (and its mirror image's) on the token grid to `file`; return pooled ones, (N, 112)."""
    views = (False, True) if config.data.flip else (False,)
    shape = (len(train), len(views), config.grid**2, WIDTH)
    teacher = np.lib.format.open_memmap(file, mode="w+", dtype=np.float16, shape=shape)  # as large as the data: never whole in memory
    pooled = np.empty((len(train), WIDTH), dtype=np.float32)
    for number, part in enumerate(batches(len(train), ENCODER_BATCH)):
        pixels = train[part]
        for view, mirrored in enumerate(views):
            chosen = np.ascontiguousarray(pixels[:, :, ::-1]) if mirrored else pixels
            maps = encoder(to_tensor(chosen, encoder), config.teacher.input_size)
            teacher[part, view] = on_grid(maps, config.grid).half().cpu().numpy()
            if not mirrored:
                pooled[part] = maps.mean((2, 3)).cpu().numpy()
        if number % 16 == 15 or part.stop == len(train):
            print(f"teacher features {part.stop}/{len(train)}", flush=True)
    teacher.flush()
    return pooled
