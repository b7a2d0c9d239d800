"""Near-twins: pairs of images that look the same, mirrored or not.

Two images are near-twins if the root mean square difference of their pixels, averaged down to at
most 32 pixels a side, is at most 13 of 255. The search is exact. It compares 8-pixel averages of
all pairs first: averaging never increases the difference, so no pair is lost. A million images
take about 10^14 multiplications, minutes on a node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from gear.data.row_selection import batches

MAX_RMSE = 13.0  # of 255
SIDE = 32
THUMBNAIL = 8
ROUNDING = 1.0  # what rounding two thumbnails to integers may add to their difference
BLOCK = 2048  # thumbnails on one side of a matrix of differences
PAIRS = 1024  # pairs whose images are in memory at a time

ReadImages = Callable[[np.ndarray], np.ndarray]


def average_pool(pixels: np.ndarray, side: int) -> np.ndarray:
    """Return square images averaged down to at most `side` pixels a side, float32.

    Args:
        pixels: Images, (..., S, S, 3) uint8; S is a multiple of `side` or smaller.

    >>> average_pool(np.full((1, 64, 64, 3), 7, np.uint8), 8).shape
    (1, 8, 8, 3)
    """
    *batch, size, _, channels = pixels.shape
    if size <= side:
        return pixels.astype(np.float32)
    cell = size // side
    blocks = pixels.reshape(*batch, side, cell, side, cell, channels)
    result: np.ndarray = blocks.mean(axis=(-4, -2), dtype=np.float32)
    return result


def thumbnail(pixels: np.ndarray) -> np.ndarray:
    """Return images (..., S, S, 3) uint8 averaged down to 8 pixels a side, uint8."""
    return average_pool(pixels, THUMBNAIL).round().astype(np.uint8)


def near_twins(thumbnails: np.ndarray, read: ReadImages) -> np.ndarray:
    """Return the pairs of near-twins among N images.

    Args:
        thumbnails: `thumbnail` of the images, (N, 8, 8, 3) uint8.
        read: Returns the images at rising positions, (n, S, S, 3) uint8.

    Returns:
        Positions (P, 2) int64, the smaller first, in order.
    """
    every = np.arange(len(thumbnails))
    return _pairs(thumbnails, every, every, read)


def near_twins_between(
    first: np.ndarray, second: np.ndarray, thumbnails: np.ndarray, read: ReadImages
) -> np.ndarray:
    """Return the pairs (P, 2) of near-twins with one image in `first` and one in `second`.

    Args:
        first: Positions of images, (A,) int64.
        second: Positions of other images, (B,) int64.
        thumbnails: Of all images, (N, 8, 8, 3) uint8.
        read: Returns the images at rising positions, (n, S, S, 3) uint8.
    """
    return _pairs(thumbnails, first, second, read)


def _pairs(
    thumbnails: np.ndarray, first: np.ndarray, second: np.ndarray, read: ReadImages
) -> np.ndarray:
    same = first is second
    found = [np.zeros((0, 2), np.int64)]
    for pairs in _candidates(thumbnails, first, second):
        if same:
            pairs = pairs[pairs[:, 0] < pairs[:, 1]]
        for part in batches(len(pairs), PAIRS):
            found.append(pairs[part][_are_near(pairs[part], read)])
    return np.unique(np.concatenate(found), axis=0)


def _candidates(
    thumbnails: np.ndarray, first: np.ndarray, second: np.ndarray
) -> Iterator[np.ndarray]:
    """Yield pairs of positions whose thumbnails are near, in blocks.

    Both sides are sorted by mean brightness, which cannot differ by more than the images do.
    """
    limit = MAX_RMSE + ROUNDING
    flat = thumbnails.reshape(len(thumbnails), THUMBNAIL**2 * 3)
    mirrored = thumbnails[:, :, ::-1].reshape(flat.shape)
    brightness = flat.mean(axis=1)
    first = first[np.argsort(brightness[first], kind="stable")]
    second = second[np.argsort(brightness[second], kind="stable")]
    for start in range(0, len(first), BLOCK):
        rows = first[start : start + BLOCK]
        low = np.searchsorted(brightness[second], brightness[rows[0]] - limit)
        high = np.searchsorted(brightness[second], brightness[rows[-1]] + limit, side="right")
        for begin in range(low, high, 4 * BLOCK):
            columns = second[begin : min(begin + 4 * BLOCK, high)]
            near = np.minimum(
                _mean_square(flat[rows], flat[columns]),
                _mean_square(flat[rows], mirrored[columns]),
            )
            i, j = np.nonzero(near <= limit**2)
            yield np.stack([rows[i], columns[j]], axis=1)


def _mean_square(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the mean square difference of each row of `a` and each of `b`, (A, B) float32."""
    a = a.astype(np.float32)
    b = b.astype(np.float32)
    squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None]
    result: np.ndarray = (squares - 2 * a @ b.T) / a.shape[1]
    return result


def _are_near(pairs: np.ndarray, read: ReadImages) -> np.ndarray:
    """Return which pairs are near-twins at up to 32 pixels a side, (P,) bool."""
    positions, places = np.unique(pairs, return_inverse=True)
    images = average_pool(read(positions), SIDE)
    a, b = images[places.reshape(pairs.shape).T]
    plain = ((a - b) ** 2).mean(axis=(1, 2, 3))
    mirrored = ((a - b[:, :, ::-1]) ** 2).mean(axis=(1, 2, 3))
    result: np.ndarray = np.minimum(plain, mirrored) <= MAX_RMSE**2
    return result
