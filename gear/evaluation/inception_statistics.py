"""Statistics of Inception features of samples, training images and reference batches."""

from __future__ import annotations

import hashlib
import json
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from gear.core.errors import InputError
from gear.core.files import read_json, require_file
from gear.core.ranks import ALONE, Ranks
from gear.core.settings import PinnedFile
from gear.data.images import ENCODER_BATCH, Pixels
from gear.data.row_selection import batches
from gear.data.shards import Split
from gear.encoders.inception import LOGITS, POOLED, SPATIAL, Inception
from gear.evaluation.frechet import Gaussian

ROWS = 10_000  # maximum number of training images in precision and recall: their cost is quadratic
PROGRESS_EVERY = 20.0  # seconds


class Moments:
    """Accumulator of mean and covariance over batches of features."""

    def __init__(self, width: int) -> None:
        self.n = 0
        self._sum = np.zeros(width)
        self._outer = np.zeros((width, width))

    def add(self, features_NC: np.ndarray) -> None:
        """Add a batch of features."""
        features = features_NC.astype(np.float64)
        self.n += len(features)
        self._sum += features.sum(0)
        self._outer += features.T @ features

    def gaussian(self) -> Gaussian:
        """Return mean and unbiased covariance. Raises ValueError for fewer than two features."""
        if self.n < 2:
            raise ValueError(f"statistics need at least two feature rows, not {self.n}")
        mean = self._sum / self.n
        return Gaussian(mean, (self._outer - self.n * np.outer(mean, mean)) / (self.n - 1))


@dataclass(frozen=True)
class InceptionStatistics:
    """Inception statistics of n images.

    pool, spatial: Gaussians of pooled (2048) and spatial (2023) features of all images.
    pooled, logits: (kept, 2048) and (kept, 1008) float32, of the images in `keep`.
    """

    n: int
    pool: Gaussian
    spatial: Gaussian
    pooled: np.ndarray
    logits: np.ndarray


def extract_statistics(
    inception: Inception, pixels: Pixels, keep: np.ndarray, name: str, ranks: Ranks = ALONE
) -> InceptionStatistics:
    """Return the statistics of images; print progress under `name`.

    Sums are fp64 and in the order of the images, so they do not depend on the number of ranks.

    Args:
        inception: The network.
        pixels: The images.
        keep: Ascending positions of the images whose features and logits are kept.
        name: What the images are, for the progress.
        ranks: Share the work.
    """

    @torch.inference_mode()
    def extract(part: slice) -> list[np.ndarray]:
        images = torch.from_numpy(np.ascontiguousarray(pixels[part])).to(device).permute(0, 3, 1, 2)
        return [x.cpu().numpy() for x in inception(images)]

    device = next(inception.parameters()).device
    pool = Moments(POOLED)
    spatial = Moments(SPATIAL)
    pooled = np.empty((len(keep), POOLED), np.float32)
    logits = np.empty((len(keep), LOGITS), np.float32)
    began = printed = time.monotonic()
    parts = list(batches(len(pixels), ENCODER_BATCH))
    for part, outputs in zip(parts, ranks.map(extract, parts), strict=True):
        pool.add(outputs[0])
        spatial.add(outputs[1])
        rows = slice(*np.searchsorted(keep, (part.start, part.stop)))
        pooled[rows] = outputs[0][keep[rows] - part.start]
        logits[rows] = outputs[2][keep[rows] - part.start]
        now = time.monotonic()
        if ranks.is_rank_zero and (now - printed > PROGRESS_EVERY or part.stop == len(pixels)):
            speed = part.stop / (now - began)
            print(f"inception, {name}: {part.stop}/{len(pixels)}, {speed:.1f} images/s", flush=True)
            printed = now
    return InceptionStatistics(pool.n, pool.gaussian(), spatial.gaussian(), pooled, logits)


@dataclass(frozen=True)
class InceptionReference:
    """Statistics that samples are compared with for FID and sFID.

    pool, spatial: Gaussians; the spatial one is None for .npz files without mu_s and sigma_s.
    protocol: Entries of metric records that name the reference.
    """

    pool: Gaussian
    spatial: Gaussian | None
    protocol: dict[str, str | int]


@dataclass(frozen=True)
class TrainingStatistics:
    """Statistics of the training images, with features and classes of evenly spaced ones."""

    reference: InceptionReference
    features: np.ndarray
    labels: np.ndarray


def choose_reference(file: PinnedFile, training: TrainingStatistics) -> InceptionReference:
    """Return the reference batch that a setting names, or the training images if it is empty."""
    return read_reference(file) if file.path else training.reference


def read_reference(file: PinnedFile) -> InceptionReference:
    """Return the statistics of a reference batch in the format that ADM publishes.

    That is an .npz with mu and sigma, and with mu_s and sigma_s for sFID. Its images are not read.

    Raises:
        InputError: if the file is absent, has another sha256, or lacks the statistics.
    """
    remedy = (
        "download a reference batch such as ADM's VIRTUAL_imagenet256_labeled.npz, "
        "or leave it empty"
    )
    path = require_file(file.path, file.sha256, "evaluate.reference", remedy)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            pool = _gaussian(arrays["mu"], arrays["sigma"], POOLED)
            spatial = (
                _gaussian(arrays["mu_s"], arrays["sigma_s"], SPATIAL) if "mu_s" in arrays else None
            )
    except (KeyError, ValueError, OSError, zipfile.BadZipFile, AttributeError, TypeError) as error:
        text = " ".join(str(error).split())[:200]
        raise InputError(
            f"evaluate.reference: {path}: no reference batch with mu and sigma: {text}"
        ) from None
    return InceptionReference(pool, spatial, {"reference": "file", "reference_sha256": file.sha256})


def _gaussian(mean: np.ndarray, covariance: np.ndarray, width: int) -> Gaussian:
    if mean.shape != (width,) or covariance.shape != (width, width):
        raise ValueError(
            f"shapes {mean.shape} and {covariance.shape}, not ({width},) and ({width}, {width})"
        )
    return Gaussian(mean.astype(np.float64), covariance.astype(np.float64))


def save_training_statistics(
    folder: Path, inception: Inception, train: Split, ranks: Ranks = ALONE
) -> None:
    """Write `inception.npz` and `inception.json` to `folder`; rank zero writes.

    The arrays have ADM's names; `features` and `labels` are of up to `ROWS` distinct images.
    """
    keep = train.distinct(ROWS).indices
    statistics = extract_statistics(inception, train, keep, "training images", ranks)
    if not ranks.is_rank_zero:
        return
    np.savez(
        folder / "inception.npz",
        mu=statistics.pool.mean,
        sigma=statistics.pool.covariance,
        mu_s=statistics.spatial.mean,
        sigma_s=statistics.spatial.covariance,
        features=statistics.pooled,
        labels=train.labels[keep],
    )
    protocol = {
        "reference": "training images",
        "reference_n": statistics.n,
        "reference_sha256": _contents_hash(train),
    }
    (folder / "inception.json").write_text(json.dumps(protocol, indent=2) + "\n")


def load_training_statistics(folder: Path) -> TrainingStatistics:
    """Return what `save_training_statistics` wrote to `folder`."""
    with np.load(folder / "inception.npz", allow_pickle=False) as file:
        pool = Gaussian(file["mu"], file["sigma"])
        spatial = Gaussian(file["mu_s"], file["sigma_s"])
        reference = InceptionReference(pool, spatial, read_json(folder / "inception.json"))
        return TrainingStatistics(reference, file["features"], file["labels"])


def _contents_hash(split: Split) -> str:
    """Return the sha256 over the hashes of a split's images, the same on every machine."""
    digest = hashlib.sha256()
    for file in split.files:
        digest.update("".join(file.read(columns=["sha256"])["sha256"].to_pylist()).encode())
    return digest.hexdigest()
