"""Draw grids of images."""

from __future__ import annotations

import io
import textwrap

import numpy as np
from PIL import Image, ImageDraw

from gear.data.row_selection import evenly_spaced

MARGIN = 130
GAP = 2
ROWS = 40  # maximum rows of a grid of classes
LINES = 5  # maximum lines of a row's name


def png_bytes(image: Image.Image) -> bytes:
    """Encode an image as PNG."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def grid_rows(
    labels: np.ndarray, classes: list[str], columns: int
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Select the images of a grid with a row per class; labels: (N,) class indices.

    Returns the indices of the images, (M,), their rows, (M,), and the names of the rows. A row has
    at most `columns` images. Classes without an image have no row; of more than `ROWS` others,
    evenly spaced ones are shown.
    """
    drawn = np.unique(labels)
    chosen = drawn[evenly_spaced(len(drawn), ROWS)]
    parts = [np.flatnonzero(labels == label)[:columns] for label in chosen]
    return (
        np.concatenate(parts),
        np.repeat(np.arange(len(parts)), [len(p) for p in parts]),
        [classes[label] for label in chosen],
    )


def class_grid(
    pixels: np.ndarray, labels: np.ndarray, classes: list[str], columns: int, scale: int = 0
) -> Image.Image:
    """Draw one row per class with its name on the left.

    pixels: (N, S, S, 3) uint8, enlarged by the factor `scale`: by default the largest for at most
        64 pixels, and at least 1.
    labels: (N,), the row of each image. classes: names of the rows.
    """
    size = pixels.shape[1]
    side = _tile_side(size, scale)
    sheet = Image.new("RGB", grid_size(len(classes), columns, size, scale), "white")
    draw = ImageDraw.Draw(sheet)
    for row, name in enumerate(classes):
        lines = textwrap.wrap(name, 20)[:LINES] or [""]
        draw.multiline_text(
            (6, row * (side + GAP) + side // 2 - 7 * len(lines)),
            "\n".join(lines),
            fill="black",
            spacing=2,
        )
        for column, index in enumerate(np.flatnonzero(labels == row)[:columns]):
            tile = Image.fromarray(pixels[index]).resize((side, side), Image.Resampling.NEAREST)
            sheet.paste(tile, (MARGIN + column * (side + GAP), row * (side + GAP)))
    return sheet


def grid_size(rows: int, columns: int, size: int, scale: int = 0) -> tuple[int, int]:
    """Return width and height in pixels of `class_grid` with images of `size` pixels a side.

    >>> grid_size(rows=2, columns=8, size=32)
    (658, 132)
    """
    side = _tile_side(size, scale)
    return MARGIN + columns * (side + GAP), rows * (side + GAP)


def _tile_side(size: int, scale: int) -> int:
    return size * (scale or max(1, 64 // size))
