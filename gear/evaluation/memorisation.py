"""Find samples that copy training images."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from gear.data.images import Pixels
from gear.data.row_selection import batches
from gear.data.shards import Split
from gear.evaluation.metric_protocol import Metric

IMAGES = 50_000  # of a split, at most, that are compared with the training set
ROWS = 1024  # of one side of a distance matrix held at a time
THUMBNAIL = 32
COPY_SHARE = 0.01


def share_of_copies(
    train: Split, val: Split, samples: Split, *, flip: bool, protocol: dict[str, Any]
) -> dict[str, Metric]:
    """Return `memorised`, the share of samples that count as copies, and the same for validation.

    A sample is a copy if it is nearer to a training image than the nearest 1 % of validation
    images are.

    flip: compare with mirrored training images too. protocol: how the samples were drawn.
    """
    held_out = thumbnails(val.subset(IMAGES))
    drawn = thumbnails(samples.subset(IMAGES))
    both = np.concatenate([held_out, drawn])
    distances = nearest_training_distance(both, train, mirrored=flip)
    unseen, near = distances[: len(held_out)], distances[len(held_out) :]
    threshold = copy_threshold(unseen)
    rule = {
        "rule": "pixel RMSE to the nearest training image, mirrored ones too, "
        "under the closest 1 % of validation",
        "side": held_out.shape[1],
        "threshold": threshold,
    }
    return {
        "memorised": Metric(float((near < threshold).mean()), {**protocol, **rule}),
        "memorised_by_rule_val": Metric(float((unseen < threshold).mean()), rule),
    }


def copy_threshold(val_to_train: np.ndarray) -> float:
    """Return the 1st percentile of validation-to-training distances; copies are below it."""
    return float(np.quantile(val_to_train, COPY_SHARE))


def thumbnails(pixels: Pixels) -> np.ndarray:
    """Return images averaged down to at most 32 pixels, (N, h, w, 3) float32 in 0..255.

    Near-copies stay near at this size, and large sets fit in memory.
    """
    parts = []
    for part in batches(len(pixels), ROWS):
        images = torch.from_numpy(np.ascontiguousarray(pixels[part])).permute(0, 3, 1, 2).float()
        small = F.adaptive_avg_pool2d(images, min(THUMBNAIL, images.shape[-1]))
        parts.append(small.permute(0, 2, 3, 1).numpy())
    return np.concatenate(parts)


def nearest_training_distance(
    thumbnails_NHWC: np.ndarray, known: Pixels, *, mirrored: bool
) -> np.ndarray:
    """Return the distance of each thumbnail to the nearest known image, (N,) float32.

    mirrored: compare with mirrored images too. Known images are read a part at a time.
    """
    best = np.full(len(thumbnails_NHWC), np.inf, np.float32)
    for part in batches(len(known), 16 * ROWS):
        some = thumbnails(known[part])
        for view in (some, some[:, :, ::-1]) if mirrored else (some,):
            best = np.minimum(best, nearest(thumbnails_NHWC, view))
    return best


def nearest(a_NP: np.ndarray, b_MP: np.ndarray) -> np.ndarray:
    """Return the RMS pixel distance of each image of `a` to its nearest in `b`, (N,) float32."""
    a, b = (torch.from_numpy(x.reshape(len(x), -1).astype(np.float32)) for x in (a_NP, b_MP))
    best = torch.full((len(a),), torch.inf)
    for rows in batches(len(a), ROWS):
        for columns in batches(len(b), 64 * ROWS):
            best[rows] = torch.minimum(best[rows], torch.cdist(a[rows], b[columns]).min(1).values)
    result: np.ndarray = best.numpy() / a.shape[1] ** 0.5
    return result
