"""Find near-duplicate images ("near-twins"), mirrored or not.

Two images are near-twins if the RMSE between them, or between one and the mirror image of the
other, is at most 13 of 255. Images over 32 pixels a side are first averaged down to 32.

The search is exact: pairs are filtered by coarser averages, and averaging never increases the RMSE,
so no pair is lost. The first filter is averages over bands of rows, which mirroring does not
change. The second is 8 x 8 thumbnails. If bands separate most pairs, a million images take 10^12 to
10^13 multiplications, minutes on one core.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from gear.data.row_selection import batches

MAX_RMSE = 13.0  # of 255
SIDE = 32
THUMBNAIL = 8
ROUNDING = 1.0  # maximum that rounding two thumbnails to integers adds to their RMSE
BANDS = 4  # horizontal bands of an image that are averaged
MANY = 1 / 256  # if bands leave a larger share of pairs, thumbnails of all pairs are compared
BLOCK = 2048  # rows of a matrix of distances between thumbnails
PAIRS = 1024  # pairs that are compared at a time
READ = 512  # images that are read at a time

ReadImages = Callable[[np.ndarray], np.ndarray]


def average_pool(pixels: np.ndarray, side: int) -> np.ndarray:
    """Return square images averaged down to at most `side` pixels a side, float32.

    Args:
        pixels: Images, (..., S, S, 3) uint8; S is a multiple of `side`, or smaller than it.
        side: Side of the result; smaller images keep theirs.

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
        read: Returns the images at ascending positions, (n, S, S, 3) uint8.

    Returns:
        Positions (P, 2) int64, sorted; the smaller position of a pair comes first.
    """
    every = np.arange(len(thumbnails))
    return _pairs(thumbnails, every, every, read)


def near_twin_groups(thumbnails: np.ndarray, groups: np.ndarray, read: ReadImages) -> np.ndarray:
    """Merge groups that have near-twins in each other, and return the group of each image.

    Images that are in one group already are not compared, so that sets with many near-twins take
    little more time than others.

    Args:
        thumbnails: `thumbnail` of N images, (N, 8, 8, 3) uint8.
        groups: Initial group of each image, (N,) int64.
        read: Returns the images at ascending positions, (n, S, S, 3) uint8.

    Returns:
        Group of each image, (N,) int64; groups are numbered 0, 1, ... by their first image.
    """
    names, group_of = np.unique(groups, return_inverse=True)
    parents = np.arange(len(names))  # union-find: the parent of each group, or itself
    every = np.arange(len(thumbnails))
    for candidates in _candidates(thumbnails, every, every):
        pixels = _Pixels(read)
        for part in batches(len(candidates), PAIRS):
            pairs = candidates[part]
            roots = _roots(parents, group_of[pairs])
            pairs = pairs[roots[:, 0] != roots[:, 1]]
            for a, b in _roots(parents, group_of[pairs[_are_near(pairs, pixels)]]).tolist():
                first, second = (_roots(parents, np.array(root)).item() for root in (a, b))
                parents[max(first, second)] = min(first, second)
    _, first, numbers = np.unique(_roots(parents, group_of), return_index=True, return_inverse=True)
    order = np.empty(len(first), np.int64)
    order[np.argsort(first)] = np.arange(len(first))
    return order[numbers]


def _roots(parents: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return the root of each group's tree."""
    while (parents[groups] != groups).any():
        groups = parents[groups]
    return groups


def near_twins_between(
    first: np.ndarray, second: np.ndarray, thumbnails: np.ndarray, read: ReadImages
) -> np.ndarray:
    """Return the pairs (P, 2) of near-twins with one image in `first` and one in `second`.

    Args:
        first: Positions of images, (A,) int64.
        second: Positions of other images, (B,) int64.
        thumbnails: `thumbnail` of all images, (N, 8, 8, 3) uint8.
        read: Returns the images at ascending positions, (n, S, S, 3) uint8.
    """
    return _pairs(thumbnails, first, second, read)


def _pairs(
    thumbnails: np.ndarray, first: np.ndarray, second: np.ndarray, read: ReadImages
) -> np.ndarray:
    found = [np.zeros((0, 2), np.int64)]
    for pairs in _candidates(thumbnails, first, second):
        pixels = _Pixels(read)
        for part in batches(len(pairs), PAIRS):
            found.append(pairs[part][_are_near(pairs[part], pixels)])
    return np.unique(np.concatenate(found), axis=0)


class _Pixels:
    """Cache of the images in one block of pairs, averaged down to at most 32 pixels a side."""

    def __init__(self, read: ReadImages) -> None:
        self._read = read
        self._images: dict[int, np.ndarray] = {}

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """Return the images at ascending positions, (n, s, s, 3) float32."""
        absent = np.array([p for p in positions.tolist() if p not in self._images], np.int64)
        for part in batches(len(absent), READ):
            self._images.update(
                zip(
                    absent[part].tolist(), average_pool(self._read(absent[part]), SIDE), strict=True
                )
            )
        return np.stack([self._images[p] for p in positions.tolist()])


def _candidates(
    thumbnails: np.ndarray, first: np.ndarray, second: np.ndarray
) -> Iterator[np.ndarray]:
    """Yield the pairs of positions whose thumbnails are near, in blocks (P, 2).

    Both sides are sorted by mean brightness: it differs by no more than the RMSE, so only a window
    of the other side is searched. If both are the same array, a pair is yielded once, the smaller
    position first.
    """
    same = first is second
    limit = MAX_RMSE + ROUNDING
    flat = thumbnails.reshape(len(thumbnails), THUMBNAIL**2 * 3)
    brightness = flat.mean(axis=1)
    first = first[np.argsort(brightness[first], kind="stable")]
    second = second[np.argsort(brightness[second], kind="stable")]
    for start in range(0, len(first), BLOCK):
        rows = first[start : start + BLOCK]
        low = np.searchsorted(brightness[second], brightness[rows[0]] - limit)
        high = np.searchsorted(brightness[second], brightness[rows[-1]] + limit, side="right")
        bands_tell = True
        for begin in range(start if same else low, high, 4 * BLOCK):
            columns = second[begin : min(begin + 4 * BLOCK, high)]
            i, j, bands_tell = _near(thumbnails, rows, columns, by_bands=bands_tell)
            pairs = np.stack([rows[i], columns[j]], axis=1)
            if same:
                pairs = np.sort(pairs[begin + j > start + i], axis=1)
            yield pairs


def _near(
    thumbnails: np.ndarray, rows: np.ndarray, columns: np.ndarray, *, by_bands: bool
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Return the near pairs as positions (P,) in `rows` and in `columns`, and whether bands helped.

    by_bands: Whether to filter by bands first. It does not help with images that differ mainly from
        left to right.
    """
    left, right = thumbnails[rows], thumbnails[columns]
    if by_bands:
        near = _products(_bands(left), _bands(right)) >= _least(BANDS * 3)
        if np.count_nonzero(near) <= MANY * near.size:
            i, j = _positions(near)
            parts = [_are_close(left[i[p]], right[j[p]]) for p in batches(len(i), 16 * PAIRS)]
            close = np.concatenate([np.zeros(0, bool), *parts])
            return i[close], j[close], True
    flat = left.reshape(len(left), -1)
    least = _least(flat.shape[1])
    near = _products(flat, right.reshape(len(right), -1)) >= least
    near |= _products(flat, right[:, :, ::-1].reshape(len(right), -1)) >= least
    i, j = _positions(near)
    return i, j, False


def _positions(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and columns of the true values of a table; a faster np.nonzero."""
    i, j = np.divmod(np.flatnonzero(table), table.shape[1])
    return i, j


def _least(values: int) -> float:
    """Return the minimum of `_products` for near pairs, given the number of values compared."""
    return -0.5 * (MAX_RMSE + ROUNDING) ** 2 * values


def _bands(thumbnails: np.ndarray) -> np.ndarray:
    """Return thumbnails (N, 8, 8, 3) averaged over bands of whole rows, (N, BANDS * 3) float32."""
    values = thumbnails.reshape(len(thumbnails), BANDS, -1, 3)
    bands: np.ndarray = values.mean(axis=2, dtype=np.float32).reshape(len(thumbnails), -1)
    return bands


def _are_close(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return which thumbnails (P, 8, 8, 3) are near each other, mirrored or not, (P,) bool."""
    limit = (MAX_RMSE + ROUNDING) ** 2
    first = first.astype(np.float32)
    differences = (first - second, first - second[:, :, ::-1])
    squares = [np.einsum("phwc,phwc->p", one, one) for one in differences]
    result: np.ndarray = np.minimum(*squares) <= limit * 3 * THUMBNAIL**2
    return result


def _products(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return -1/2 of the squared distances of rows (A, D) and (B, D), (A, B) float32."""
    products: np.ndarray = _factor(first, first=True) @ _factor(second, first=False).T
    return products


def _factor(flat: np.ndarray, *, first: bool) -> np.ndarray:
    """Return (N, D + 2) float32 factors; a product of two is -1/2 of a squared distance of rows.

    It is -|a - b|^2 / 2 = a b - |a|^2 / 2 - |b|^2 / 2. `first`: whether the rows are `a` or `b`.
    """
    centred = flat.astype(np.float32) - 128.0  # smaller numbers round less
    halves = -0.5 * np.einsum("nd,nd->n", centred, centred)[:, None]
    ones = np.ones_like(halves)
    return np.concatenate([centred, *((halves, ones) if first else (ones, halves))], axis=1)


def _are_near(pairs: np.ndarray, pixels: _Pixels) -> np.ndarray:
    """Return which pairs are near-twins at up to 32 pixels a side, (P,) bool."""
    if not len(pairs):
        return np.zeros(0, bool)
    positions, places = np.unique(pairs, return_inverse=True)
    a, b = pixels(positions)[places.reshape(pairs.shape).T]
    plain = ((a - b) ** 2).mean(axis=(1, 2, 3))
    mirrored = ((a - b[:, :, ::-1]) ** 2).mean(axis=(1, 2, 3))
    result: np.ndarray = np.minimum(plain, mirrored) <= MAX_RMSE**2
    return result
