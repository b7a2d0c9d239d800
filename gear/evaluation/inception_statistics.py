"""Statistics of Inception features: of samples, of the training images, of a reference batch."""

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
from gear.core.files import require_file
from gear.core.settings import PinnedFile
from gear.data.images import ENCODER_BATCH, Pixels
from gear.data.rows import batches, evenly_spaced
from gear.data.shards import Split
from gear.encoders.inception import POOLED, SPATIAL, Inception
from gear.evaluation.frechet import frechet_distance

ROWS = 10_000  # training images, at most, whose features stay for precision and recall: their cost is its square

SAY_EVERY = 20.0  # seconds


@dataclass(frozen=True)
class Gaussian:
    """What a Fréchet distance compares: mean (C,) and unbiased covariance (C, C) of N features, float64."""

    mean: np.ndarray
    covariance: np.ndarray

    def distance(self, other: Gaussian) -> float:
        return frechet_distance(self.mean, self.covariance, other.mean, other.covariance)


class Moments:
    """Mean and covariance of features that come in batches; the features themselves are not kept."""

    def __init__(self, width: int) -> None:
        self.n, self._sum, self._outer = 0, np.zeros(width), np.zeros((width, width))

    def add(self, features_NC: np.ndarray) -> None:
        features = features_NC.astype(np.float64)
        self.n += len(features)
        self._sum += features.sum(0)
        self._outer += features.T @ features

    def gaussian(self) -> Gaussian:
        """Raises ValueError under two rows."""
        if self.n < 2:
            raise ValueError(f"statistics need at least two feature rows, not {self.n}")
        mean = self._sum / self.n
        return Gaussian(mean, (self._outer - self.n * np.outer(mean, mean)) / (self.n - 1))


@dataclass(frozen=True)
class InceptionStatistics:
    """A set of images as Inception sees it; `pooled` and `logits` are those of the kept rows."""

    n: int
    pool: Gaussian
    spatial: Gaussian
    pooled: np.ndarray
    logits: np.ndarray


@torch.inference_mode()
def extract_statistics(
    inception: Inception, pixels: Pixels, keep: np.ndarray, name: str
) -> InceptionStatistics:
    """InceptionStatistics at all images, a batch at a time; `keep`: rising positions whose features stay. Says how far it is and how fast."""
    device = next(inception.parameters()).device
    pool, spatial = Moments(POOLED), Moments(SPATIAL)
    pooled, logits = (
        np.empty((len(keep), POOLED), np.float32),
        np.empty((len(keep), 1008), np.float32),
    )
    began = said = time.monotonic()
    for part in batches(len(pixels), ENCODER_BATCH):
        images = torch.from_numpy(np.ascontiguousarray(pixels[part])).to(device).permute(0, 3, 1, 2)
        seen = [x.cpu().numpy() for x in inception(images)]
        pool.add(seen[0])
        spatial.add(seen[1])
        rows = slice(*np.searchsorted(keep, (part.start, part.stop)))
        pooled[rows], logits[rows] = (seen[i][keep[rows] - part.start] for i in (0, 2))
        now = time.monotonic()
        if now - said > SAY_EVERY or part.stop == len(pixels):
            print(
                f"inception, {name}: {part.stop}/{len(pixels)}, {part.stop / (now - began):.1f} images/s",
                flush=True,
            )
            said = now
    return InceptionStatistics(pool.n, pool.gaussian(), spatial.gaussian(), pooled, logits)


def contents_hash(split: Split) -> str:
    """sha256 over the hashes of a split's images, in order: names the reference, whatever machine computes its statistics."""
    total = hashlib.sha256()
    for file in split.files:
        total.update("".join(file.read(columns=["sha256"])["sha256"].to_pylist()).encode())
    return total.hexdigest()


@dataclass(frozen=True)
class Reference:
    """What samples are compared with: Gaussians (no spatial one in plain .npz files), and what names them in protocols."""

    pool: Gaussian
    spatial: Gaussian | None
    named: dict[str, str | int]


def read_reference(weights: PinnedFile) -> Reference:
    """The statistics of a reference batch as ADM publishes them: an .npz with mu, sigma, and mu_s, sigma_s for sFID.

    Only the statistics are read: the images beside them stay on disk. Raises `InputError`.
    """
    remedy = (
        "download a reference batch such as ADM's VIRTUAL_imagenet256_labeled.npz, "
        "or leave it empty"
    )
    path = require_file(weights.path, weights.sha256, "evaluate.reference", remedy)
    try:
        with np.load(path, allow_pickle=False) as file:
            pool = _gaussian(file["mu"], file["sigma"], POOLED)
            spatial = _gaussian(file["mu_s"], file["sigma_s"], SPATIAL) if "mu_s" in file else None
    except (KeyError, ValueError, OSError, zipfile.BadZipFile, AttributeError, TypeError) as error:
        raise InputError(
            f"evaluate.reference: {path}: no reference batch with mu and sigma: {' '.join(str(error).split())[:200]}"
        ) from None
    return Reference(pool, spatial, {"reference": "file", "reference_sha256": weights.sha256})


def _gaussian(mean: np.ndarray, covariance: np.ndarray, width: int) -> Gaussian:
    if mean.shape != (width,) or covariance.shape != (width, width):
        raise ValueError(
            f"shapes {mean.shape} and {covariance.shape}, not ({width},) and ({width}, {width})"
        )
    return Gaussian(mean.astype(np.float64), covariance.astype(np.float64))


@dataclass(frozen=True)
class Training:
    """The training images as Inception saw them: as a reference, and the features of some thousand of them for precision and recall."""

    reference: Reference
    features: np.ndarray

    @property
    def named(self) -> dict[str, str | int]:
        return self.reference.named


def save_training(folder: Path, inception: Inception, train: Split) -> None:
    """InceptionStatistics at the training images → `inception.npz` (ADM's names, and `features`) and `inception.json` in `folder`."""
    seen = extract_statistics(inception, train, evenly_spaced(len(train), ROWS), "training images")
    np.savez(
        folder / "inception.npz",
        mu=seen.pool.mean,
        sigma=seen.pool.covariance,
        mu_s=seen.spatial.mean,
        sigma_s=seen.spatial.covariance,
        features=seen.pooled,
    )
    named = {
        "reference": "training images",
        "reference_n": seen.n,
        "reference_sha256": contents_hash(train),
    }
    (folder / "inception.json").write_text(json.dumps(named, indent=2) + "\n")


def load_training(folder: Path) -> Training:
    """What `save_training` wrote."""
    with np.load(folder / "inception.npz", allow_pickle=False) as file:
        pool, spatial = Gaussian(file["mu"], file["sigma"]), Gaussian(file["mu_s"], file["sigma_s"])
        named = json.loads((folder / "inception.json").read_text())
        return Training(Reference(pool, spatial, named), file["features"])
