"""Find samples that copy training images.

A generator sees training images only as tokens, so samples are compared with training images that
were encoded and decoded by the tokenizer, and with their tokens. Thresholds come from validation
images that were encoded and decoded too: about 1 % of them count as copies.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from gear.core.ranks import ALONE, Ranks
from gear.data.images import Pixels
from gear.data.row_selection import batches, evenly_spaced
from gear.data.shards import Split
from gear.evaluation.metric_protocol import DISTINCT, Metric
from gear.tokenizer.inference import decode_tokens, encode_images
from gear.tokenizer.model import Tokenizer

IMAGES = 50_000  # maximum number of distinct validation images, and of samples, compared
ROWS = 1024  # rows of a distance matrix held at a time
THUMBNAIL = 32
COPY_SHARE = 0.01  # quantile of validation distances below which a sample counts as a copy


@dataclass(frozen=True)
class NearestTraining:
    """The nearest training image of each of N images.

    distance: RMSE of thumbnails, pixels in 0..255, (N,) float32.
    row: Row of the training image that is nearest by this RMSE, (N,) int64.
    agreement: Share of tokens equal to those of that image, (N,) float32.
    """

    distance: np.ndarray
    row: np.ndarray
    agreement: np.ndarray


def share_of_copies(
    tokenizer: Tokenizer,
    train: Split,
    val: Split,
    samples: Split,
    tokens_NL: np.ndarray,
    *,
    flip: bool,
    protocol: dict[str, Any],
    ranks: Ranks = ALONE,
) -> tuple[dict[str, Metric], NearestTraining]:
    """Return the shares of samples that count as copies, and the nearest training image of each.

    `memorised` is the share of samples whose distance to a decoded training image is below the 1st
    percentile of validation-to-training distances. `memorised_tokens` is the share of samples that
    agree with that image in more tokens than 99 % of validation images do with theirs. The names
    with `_floor` are the same shares of the validation images.

    Args:
        tokenizer: The tokenizer that decoded the samples.
        train: The training images.
        val: The validation images.
        samples: The decoded samples.
        tokens_NL: Their tokens.
        flip: Whether to compare with mirrored training images too.
        protocol: How the samples were drawn.
        ranks: Share the work.
    """
    val_tokens = encode_images(tokenizer, val.distinct(IMAGES), ranks)
    val_thumbnails = _decoded_thumbnails(tokenizer, val_tokens, ranks)
    both = nearest_training(
        np.concatenate([val_thumbnails, thumbnails(samples.subset(IMAGES), ranks)]),
        np.concatenate([val_tokens, tokens_NL[evenly_spaced(len(tokens_NL), IMAGES)]]),
        _training_views(tokenizer, train, flip, ranks),
        ranks,
    )
    held_out = len(val_tokens)
    protocol = protocol | {"n": len(both.distance) - held_out}
    distance = float(np.quantile(both.distance[:held_out], COPY_SHARE))
    agreement = float(np.quantile(both.agreement[:held_out], 1 - COPY_SHARE))
    views = "images and their mirror images" if flip else "images"
    pixels = {
        "rule": f"pixel RMSE to the nearest of the training {views}, decoded, "
        f"under the closest {COPY_SHARE:.0%} of decoded validation images, or 0",
        "side": val_thumbnails.shape[1],
        "threshold": distance,
    }
    tokens = {
        "rule": f"share of tokens equal to those of the nearest of the training {views}, "
        f"over that of {1 - COPY_SHARE:.0%} of validation images, or all",
        "threshold": agreement,
    }
    images = {DISTINCT: held_out} if held_out < min(len(val), IMAGES) else {}
    # many validation images may be exact copies, too: then no distance is under the threshold
    near = (both.distance < distance) | (both.distance == 0)
    alike = (both.agreement > agreement) | (both.agreement == 1)
    metrics = {
        "memorised": Metric(float(near[held_out:].mean()), {**protocol, **pixels}),
        "memorised_floor": Metric(float(near[:held_out].mean()), {**pixels, **images}),
        "memorised_tokens": Metric(float(alike[held_out:].mean()), {**protocol, **tokens}),
        "memorised_tokens_floor": Metric(float(alike[:held_out].mean()), {**tokens, **images}),
    }
    of_samples = NearestTraining(
        both.distance[held_out:], both.row[held_out:], both.agreement[held_out:]
    )
    return metrics, of_samples


def nearest_table(nearest: NearestTraining, count: int, *, samples: int) -> list[dict[str, Any]]:
    """Return rows for the `count` samples nearest to a training image, nearest first.

    samples: number of all samples, of which `nearest` may hold evenly spaced ones only.
    """
    numbers = evenly_spaced(samples, len(nearest.distance))
    return [
        {
            "sample": int(numbers[number]),
            "training_row": int(nearest.row[number]),
            "distance": float(nearest.distance[number]),
            "agreement": float(nearest.agreement[number]),
        }
        for number in np.argsort(nearest.distance, kind="stable")[:count]
    ]


@dataclass(frozen=True)
class TrainingView:
    """Some training images, mirrored or not, encoded and decoded by the tokenizer.

    rows: (n,) int64. tokens: (n, L) int64. thumbnails: (n, h, w, 3) float32, decoded.
    """

    rows: np.ndarray
    tokens: np.ndarray
    thumbnails: np.ndarray


def _training_views(
    tokenizer: Tokenizer, train: Split, flip: bool, ranks: Ranks
) -> Iterator[TrainingView]:
    """Yield the training images, and their mirror images if `flip`, in parts."""
    for part in batches(len(train), 16 * ROWS):
        rows = np.arange(part.start, part.stop)
        for mirrored in (False, True) if flip else (False,):
            tokens = encode_images(tokenizer, _View(train, rows, mirrored), ranks)
            yield TrainingView(rows, tokens, _decoded_thumbnails(tokenizer, tokens, ranks))
        if ranks.is_rank_zero and len(train) > 16 * ROWS:
            print(f"memorisation: {rows[-1] + 1} of {len(train)} training images", flush=True)


@dataclass(frozen=True)
class _View:
    """Rows of a split, mirrored or not, read on demand."""

    split: Split
    rows: np.ndarray
    mirrored: bool

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, part: slice) -> np.ndarray:
        pixels = self.split.images(self.rows[part])
        return np.ascontiguousarray(pixels[:, :, ::-1]) if self.mirrored else pixels


def nearest_training(
    thumbnails_NHWC: np.ndarray,
    tokens_NL: np.ndarray,
    views: Iterator[TrainingView],
    ranks: Ranks = ALONE,
) -> NearestTraining:
    """Return the nearest training image of each of N images.

    Args:
        thumbnails_NHWC: Thumbnails of the images, by `thumbnails`.
        tokens_NL: Tokens of the images.
        views: The training images.
        ranks: Share the work.
    """
    count = len(tokens_NL)
    distance = np.full(count, np.inf, np.float32)
    row = np.zeros(count, np.int64)
    agreement = np.zeros(count, np.float32)
    for view in views:
        near, place = nearest(thumbnails_NHWC, view.thumbnails, ranks)
        nearer = near < distance
        distance[nearer] = near[nearer]
        row[nearer] = view.rows[place[nearer]]
        equal = tokens_NL[nearer] == view.tokens[place[nearer]]
        agreement[nearer] = equal.mean(axis=1)
    return NearestTraining(distance, row, agreement)


def thumbnails(pixels: Pixels, ranks: Ranks = ALONE) -> np.ndarray:
    """Return images averaged down to at most 32 pixels a side, (N, h, w, 3) float32 in 0..255.

    Near-copies stay near at this size, and large sets fit in memory.
    """

    def shrink(part: slice) -> np.ndarray:
        images = torch.from_numpy(np.ascontiguousarray(pixels[part])).permute(0, 3, 1, 2).float()
        small = F.adaptive_avg_pool2d(images, min(THUMBNAIL, images.shape[-1]))
        return small.permute(0, 2, 3, 1).numpy()

    return np.concatenate(list(ranks.map(shrink, batches(len(pixels), ROWS))))


def _decoded_thumbnails(tokenizer: Tokenizer, tokens_NL: np.ndarray, ranks: Ranks) -> np.ndarray:
    """Return thumbnails of decoded tokens; one batch of images per rank is in memory at a time."""

    def shrink(part: slice) -> np.ndarray:
        return thumbnails(decode_tokens(tokenizer, tokens_NL[part]))

    return np.concatenate(list(ranks.map(shrink, batches(len(tokens_NL)))))


def nearest(
    a_NP: np.ndarray, b_MP: np.ndarray, ranks: Ranks = ALONE
) -> tuple[np.ndarray, np.ndarray]:
    """Return the RMSE of each image of `a` to the nearest of `b`, and the position of that.

    They are (N,) float32 and (N,) int64; images may have any number of dimensions.

    >>> distance, position = nearest(np.array([[0.0, 0.0]]), np.array([[9.0, 9.0], [3.0, 3.0]]))
    >>> distance.tolist(), position.tolist()
    ([3.0], [1])
    """
    a, b = (torch.from_numpy(x.reshape(len(x), -1).astype(np.float32)) for x in (a_NP, b_MP))

    def search(part: slice) -> tuple[np.ndarray, np.ndarray]:
        places = torch.cdist(a[part], b).argmin(1)
        # cdist multiplies matrices, whose rounding gives equal images a distance
        best = (a[part] - b[places]).square().mean(1).sqrt()
        return best.numpy(), places.numpy()

    best, places = zip(*ranks.map(search, batches(len(a), ROWS)), strict=True)
    return np.concatenate(best), np.concatenate(places)
