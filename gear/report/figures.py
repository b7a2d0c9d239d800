"""Grids of images."""

from __future__ import annotations

import io
import textwrap

import numpy as np
from PIL import Image, ImageDraw

from gear.data.row_selection import evenly_spaced

MARGIN = 130
GAP = 2
ROWS = 40  # of a grid of classes, at most
LINES = 5  # of the name of a row, at most


def png_bytes(image: Image.Image) -> bytes:
    """Return an image as PNG."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def grid_rows(
    labels: np.ndarray, classes: list[str], columns: int
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return what a grid with a row per class shows: image indices, their rows, names of the rows.

    A row has at most `columns` images. Of more than `ROWS` classes, evenly spaced ones are shown.
    """
    chosen = evenly_spaced(len(classes), ROWS)
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

    pixels: (N, H, W, 3) uint8, enlarged by the factor `scale`, by default to 64 pixels or more.
    labels: (N,), the row of each image. classes: names of the rows.
    """
    size = pixels.shape[1]
    side = size * (scale or max(1, 64 // size))
    sheet = Image.new(
        "RGB", (MARGIN + columns * (side + GAP), len(classes) * (side + GAP)), "white"
    )
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
