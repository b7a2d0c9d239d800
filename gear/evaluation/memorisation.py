"""Find samples that copy training images."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from gear.data.images import Pixels
from gear.data.rows import batches
from gear.evaluation.coverage import ROWS

THUMBNAIL = 32


def copy_threshold(val_to_train: np.ndarray) -> float:
    """A distance so small that 1 % of unseen validation images lie closer to the training set: closer is called a copy."""
    return float(np.quantile(val_to_train, 0.01))


def thumbnails(pixels: Pixels) -> np.ndarray:
    """Images averaged down to at most 32 px, (N, h, w, 3) float32 in 0..255: near-copies stay near, large sets stay small."""
    parts = []
    for part in batches(len(pixels), ROWS):
        images = torch.from_numpy(np.ascontiguousarray(pixels[part])).permute(0, 3, 1, 2).float()
        parts.append(
            F.adaptive_avg_pool2d(images, min(THUMBNAIL, images.shape[-1]))
            .permute(0, 2, 3, 1)
            .numpy()
        )
    return np.concatenate(parts)


def nearest_training_distance(
    thumbnails_NHWC: np.ndarray, known: Pixels, *, mirrored: bool
) -> np.ndarray:
    """Distance of each thumbnail to the nearest of known images, their mirror images too where `mirrored`, (N,).

    Known images are read and shrunk some at a time: a training set of any size fits.
    """
    best = np.full(len(thumbnails_NHWC), np.inf, np.float32)
    for part in batches(len(known), 16 * ROWS):
        some = thumbnails(known[part])
        for view in (some, some[:, :, ::-1]) if mirrored else (some,):
            best = np.minimum(best, nearest(thumbnails_NHWC, view))
    return best


def nearest(a_NP: np.ndarray, b_MP: np.ndarray) -> np.ndarray:
    """Root-mean-square pixel distance of each row of `a` to its nearest row of `b`, (N,); images of one shape."""
    a, b = (torch.from_numpy(x.reshape(len(x), -1).astype(np.float32)) for x in (a_NP, b_MP))
    best = torch.full((len(a),), torch.inf)
    for rows in batches(len(a), ROWS):
        for columns in batches(len(b), 64 * ROWS):
            best[rows] = torch.minimum(best[rows], torch.cdist(a[rows], b[columns]).min(1).values)
    return best.numpy() / a.shape[1] ** 0.5
