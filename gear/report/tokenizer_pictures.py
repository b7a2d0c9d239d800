"""Pictures of a tokenizer on validation images: pairs, worst ones, classes, token maps, codes."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from gear.core.text import one_line
from gear.data.row_selection import evenly_spaced
from gear.data.shards import Split
from gear.report.page import picture
from gear.report.token_figure import error_map, token_tiles
from gear.report.token_predictions import Predictions
from gear.tokenizer.inference import decode_tokens, encode_images
from gear.tokenizer.model import Tokenizer

PIXELS = 1 << 21  # maximum pixels of all images that are encoded for the page
FEWEST, MOST = 24, 512  # number of images, whatever their size
SHEET_PIXELS = 400_000  # maximum pixels of the sheet of originals
SHEET_COLUMNS = 12
WORST = 12
MAPS = 6
CLASSES = 40  # rows of the table, at most
CODES = 512  # tiles, at most
CODE_COLUMNS = 32
MAP_SIDE = 5  # tokens a side of the map whose centre shows a code
TILE = 16  # pixels a side of a code's tile, at least
GAP = 2
BACKGROUND = 190  # grey between tiles
NAME = 40  # characters of an image's name that are shown
PEAK = 255.0
PERFECT = 100.0  # dB, of an image without error


@dataclass(frozen=True)
class Reconstructed:
    """Images of a split, with their tokens and reconstructions.

    originals, copies: (N, S, S, 3) uint8. tokens: (N, L) int64. psnr: (N,) dB.
    """

    names: list[str]
    labels: np.ndarray
    originals: np.ndarray
    tokens: np.ndarray
    copies: np.ndarray
    psnr: np.ndarray


def reconstruct(tokenizer: Tokenizer, split: Split, size: int) -> Reconstructed:
    """Reconstruct evenly spaced images of a split: 512, or fewer of large ones.

    size: pixels a side of an image.
    """
    rows = evenly_spaced(len(split), min(MOST, max(FEWEST, PIXELS // size**2)))
    originals = split.images(rows)
    tokens = encode_images(tokenizer, originals)
    copies = decode_tokens(tokenizer, tokens)
    names = [one_line(split.keys[int(row)], NAME) for row in rows]
    return Reconstructed(
        names, split.labels[rows], originals, tokens, copies, psnr(originals, copies)
    )


def psnr(originals: np.ndarray, copies: np.ndarray) -> np.ndarray:
    """Return the peak signal-to-noise ratio of each of N images (N, H, W, 3) uint8, dB, up to 100.

    >>> psnr(np.zeros((2, 1, 1, 3), np.uint8), np.array([[[[0] * 3]], [[[51] * 3]]], np.uint8))
    array([100.        ,  13.97940009])
    """
    error = ((originals.astype(np.float64) - copies) ** 2).mean(axis=(1, 2, 3))
    floor = PEAK**2 * 10 ** (-PERFECT / 10)
    ratios: np.ndarray = 10 * np.log10(PEAK**2 / np.maximum(error, floor))
    return ratios


def mapped(found: Reconstructed) -> np.ndarray:
    """Return the indices of the images that are shown with token maps."""
    return evenly_spaced(len(found.names), MAPS)


def sections(
    tokenizer: Tokenizer,
    found: Reconstructed,
    classes: list[str],
    training: np.ndarray,
    predictions: Predictions | None = None,
) -> dict[str, Any]:
    """Return the values of the page's section on a tokenizer.

    classes: names of classes. training: labels of the training images. predictions: the
    generator's, for the `mapped` images.
    """
    codes = tokenizer.config.codes
    counts = np.bincount(found.tokens.reshape(-1), minlength=codes)
    bits_K = -np.log2(np.maximum(counts, 1) / counts.sum())
    in_use = bits_K[counts > 0]
    size = found.originals.shape[1]
    shown = evenly_spaced(len(found.names), min(36, max(6, SHEET_PIXELS // size**2)))
    return {
        "shown": len(shown),
        "measured": len(found.names),
        "originals": picture(sheet(found.originals[shown], SHEET_COLUMNS)),
        "copies": picture(sheet(found.copies[shown], SHEET_COLUMNS)),
        "worst": [
            {
                "name": found.names[i],
                "psnr": f"{found.psnr[i]:.1f}",
                "original": picture(found.originals[i]),
                "rebuilt": picture(found.copies[i]),
            }
            for i in np.argsort(found.psnr, kind="stable")[:WORST].tolist()
        ],
        "classes": class_table(found, classes, training),
        "rarity": [f"{in_use.min():.1f}", f"{in_use.max():.1f}"],
        "most_entropy": f"{math.log2(codes):.0f}" if predictions else "",
        "maps": [
            _token_map(found, i, bits_K, (in_use.min(), in_use.max()))
            | (_prediction_map(found.tokens[i], predictions, place, codes) if predictions else {})
            for place, i in enumerate(mapped(found).tolist())
        ],
        "codes": code_tiles(tokenizer, counts),
    }


def class_table(found: Reconstructed, classes: list[str], training: np.ndarray) -> dict[str, Any]:
    """Return the number of images and the PSNR of each class, the worst class first."""
    rows = []
    for label, name in enumerate(classes):
        of_class = found.psnr[found.labels == label]
        if len(of_class):
            rows.append((of_class.mean(), name, int((training == label).sum()), of_class))
    rows.sort(key=lambda row: row[0])
    return {
        "rows": [
            [one_line(name, NAME), count, len(values), f"{mean:.2f}", f"{values.min():.2f}"]
            for mean, name, count, values in rows[:CLASSES]
        ],
        "hidden": max(0, len(rows) - CLASSES),
    }


def code_tiles(tokenizer: Tokenizer, counts: np.ndarray) -> dict[str, Any]:
    """Return the picture of decoded codes, the most used first; counts: uses of each code, (K,)."""
    order = np.argsort(-counts, kind="stable")[:CODES]
    patches = decoded_codes(tokenizer, order)
    scale = -(-TILE // patches.shape[1])
    enlarged = patches.repeat(scale, axis=1).repeat(scale, axis=2)
    total = counts.sum()
    labels = [
        f"code {code}: {counts[code] / total:.2%} of tokens, rank {rank}"
        for rank, code in enumerate(order.tolist(), start=1)
    ]
    return {
        "picture": picture(sheet(enlarged, CODE_COLUMNS, GAP)),
        "labels": json.dumps({"columns": CODE_COLUMNS, "labels": labels}),
        "shown": len(order),
        "all": len(counts),
        "unused": int((counts == 0).sum()),
    }


def decoded_codes(tokenizer: Tokenizer, codes: np.ndarray) -> np.ndarray:
    """Return patches (n, f, f, 3) uint8 of codes (n,): the centre of a decoded grid of one code."""
    maps = np.repeat(codes[:, None], MAP_SIDE**2, axis=1)
    images = decode_tokens(tokenizer, maps)
    side = images.shape[1] // MAP_SIDE
    start = MAP_SIDE // 2 * side
    return images[:, start : start + side, start : start + side]


def sheet(images: np.ndarray, columns: int, gap: int = 0) -> np.ndarray:
    """Tile images (N, H, W, 3) uint8 row by row on a sheet; empty places are grey.

    >>> sheet(np.zeros((3, 4, 4, 3), np.uint8), columns=2, gap=1).shape
    (10, 10, 3)
    """
    columns = min(columns, len(images))
    height, width = images.shape[1] + gap, images.shape[2] + gap
    rows = -(-len(images) // columns)
    whole = np.full((rows * height, columns * width, 3), BACKGROUND, np.uint8)
    for number, image in enumerate(images):
        top, left = number // columns * height, number % columns * width
        whole[top : top + image.shape[0], left : left + image.shape[1]] = image
    return whole


def _token_map(
    found: Reconstructed, number: int, bits_K: np.ndarray, ends: tuple[float, float]
) -> dict[str, Any]:
    tokens = found.tokens[number]
    bits = bits_K[tokens]
    side = round(len(tokens) ** 0.5)
    original, copy = found.originals[number], found.copies[number]
    return {
        "name": found.names[number],
        "tokens": len(tokens),
        "psnr": f"{found.psnr[number]:.1f}",
        "original": picture(original),
        "rebuilt": picture(copy),
        "error": picture(error_map(original, copy)),
        "map": picture(token_tiles(tokens)),
        "rare": picture(_greys(bits, *ends)),
        "indices": _tiles(side, [f"code {token}" for token in tokens.tolist()]),
        "bits": _tiles(
            side,
            [
                f"code {token}: {rare:.1f} bits"
                for token, rare in zip(tokens.tolist(), bits.tolist(), strict=True)
            ],
        ),
    }


def _prediction_map(
    tokens: np.ndarray, predictions: Predictions, place: int, codes: int
) -> dict[str, Any]:
    entropy, cost = predictions.entropy[place], predictions.cost[place]
    labels = [
        f"entropy {spread:.1f} bits; code {token} costs {bits:.1f}"
        for token, spread, bits in zip(tokens.tolist(), entropy, cost, strict=True)
    ]
    return {
        "entropy": picture(_greys(entropy, 0.0, math.log2(codes))),
        "costs": _tiles(round(len(tokens) ** 0.5), labels),
        "bits_of_image": f"{cost.sum():.0f}",
    }


def _greys(values_L: np.ndarray, white: float, black: float) -> np.ndarray:
    """Return a pixel for each token, (s, s, 3) uint8: white and black at these values."""
    lightness = 1 - (values_L - white) / max(black - white, 1e-9)
    side = round(len(values_L) ** 0.5)
    grey = (lightness * PEAK).round().clip(0, PEAK).astype(np.uint8).reshape(side, side)
    return np.repeat(grey[..., None], 3, axis=2)


def _tiles(columns: int, labels: list[str]) -> str:
    return json.dumps({"columns": columns, "labels": labels})
