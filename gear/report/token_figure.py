"""Draw images with their tokens, reconstructions and errors side by side."""

from __future__ import annotations

import colorsys

import numpy as np
from PIL import Image, ImageDraw

CELL = 256  # pixels a side at least
GAP = 12
LINE = 18  # height of a line of text
HEADINGS = ("image", "tokens", "reconstruction", "error, the darker the larger")
WORST = 64.0  # of 255: an error that is drawn black
TURN = 0.6180339887  # of the colour circle between consecutive indices: the golden ratio


def token_sheet(
    names: list[str], originals: np.ndarray, tokens: np.ndarray, copies: np.ndarray
) -> Image.Image:
    """Draw a row per image: the image, its tokens, its reconstruction and the error.

    Equal tokens have equal colours. The error is the mean absolute difference over the colour
    channels: white for 0, black for 64 of 255 or more.

    Args:
        names: N titles of the rows.
        originals: Images, (N, S, S, 3) uint8.
        tokens: Their token indices, (N, L) int64; L is a square number.
        copies: Their reconstructions, (N, S, S, 3) uint8.
    """
    cell = _cell(originals.shape[1])
    width = GAP + len(HEADINGS) * (cell + GAP)
    sheet = Image.new("RGB", (width, sheet_height(len(names), originals.shape[1])), "white")
    draw = ImageDraw.Draw(sheet)
    lefts = [GAP + number * (cell + GAP) for number in range(len(HEADINGS))]
    for left, heading in zip(lefts, HEADINGS, strict=True):
        draw.text((left, GAP), heading, fill="black")
    for row, name in enumerate(names):
        top = GAP + LINE + row * (cell + LINE + GAP)
        draw.text((GAP, top + 2), name, fill="#555555")
        cells = (
            originals[row],
            token_tiles(tokens[row]),
            copies[row],
            error_map(originals[row], copies[row]),
        )
        for left, pixels in zip(lefts, cells, strict=True):
            enlarged = Image.fromarray(pixels).resize((cell, cell), Image.Resampling.NEAREST)
            sheet.paste(enlarged, (left, top + LINE))
    return sheet


def sheet_height(rows: int, size: int) -> int:
    """Return the height in pixels of the picture of `rows` images of `size` pixels a side."""
    return GAP + LINE + rows * (_cell(size) + LINE + GAP)


def _cell(size: int) -> int:
    return size * max(1, -(-CELL // size))


def token_tiles(tokens: np.ndarray) -> np.ndarray:
    """Return a coloured pixel for each of the tokens (s * s,) of an image, (s, s, 3) uint8."""
    side = round(len(tokens) ** 0.5)
    found, places = np.unique(tokens, return_inverse=True)
    colours = [
        colorsys.hsv_to_rgb(index * TURN % 1.0, 0.45 + 0.4 * (index * 7 % 5) / 4, 0.9)
        for index in found.tolist()
    ]
    pixels: np.ndarray = (np.array(colours) * 255).round().astype(np.uint8)
    return pixels[places].reshape(side, side, 3)


def error_map(original: np.ndarray, copy: np.ndarray) -> np.ndarray:
    """Return the difference of two images (S, S, 3) uint8 in the same shape: darker is larger."""
    difference = np.abs(original.astype(np.float32) - copy.astype(np.float32)).mean(axis=2)
    shade = 255.0 * (1.0 - np.minimum(difference / WORST, 1.0))
    return np.repeat(shade.round().astype(np.uint8)[..., None], 3, axis=2)
