"""Pictures: grids of images (Pillow) and line charts (SVG text), the same bytes for the same numbers."""

from __future__ import annotations

import io
import textwrap
from html import escape

import numpy as np
from PIL import Image, ImageDraw

from gear.data.rows import evenly_spaced

MARGIN = 130
GAP = 2
ROWS = 40  # of a grid of classes, at most
LINES = 5  # of a row's name


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

    pixels: (N, H, W, 3) uint8, enlarged by the whole number `scale`, by default to 64 pixels or more.
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


def pair_grid(originals: np.ndarray, copies: np.ndarray, columns: int) -> Image.Image:
    """Draw originals with their reconstructions right below."""
    side = originals.shape[1] * max(1, 64 // originals.shape[1])
    rows = -(-len(originals) // columns)
    sheet = Image.new("RGB", (columns * (side + GAP), rows * (2 * side + 3 * GAP)), "white")
    for index in range(len(originals)):
        x, y = (index % columns) * (side + GAP), (index // columns) * (2 * side + 3 * GAP)
        for line, source in enumerate((originals, copies)):
            tile = Image.fromarray(source[index]).resize((side, side), Image.Resampling.NEAREST)
            sheet.paste(tile, (x, y + line * side))
    return sheet


def line_chart(
    title: str, series: dict[str, list[tuple[float, float]]], *, from_zero: bool = False
) -> str:
    """Return an SVG line chart of series of (x, y); "" if there are no points.

    from_zero: start the y axis at 0.
    """
    width, height = 360, 200
    points = [p for line in series.values() for p in line]
    if not points:
        return ""
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    x0, x1, y0, y1 = min(xs), max(xs), min(0.0, *ys) if from_zero else min(ys), max(ys)
    x1, y1 = x1 + (x1 == x0), y1 + (y1 == y0) * max(abs(y1), 1.0) * 0.1
    left, top, right, bottom = 48, 26, width - 10, height - 24

    def place(x: float, y: float) -> str:
        return f"{left + (x - x0) / (x1 - x0) * (right - left):.1f},{bottom - (y - y0) / (y1 - y0) * (bottom - top):.1f}"

    lines = [
        f'<polyline class="s{i % 4}" points="{" ".join(place(x, y) for x, y in line)}"><title>{escape(name)}</title></polyline>'
        for i, (name, line) in enumerate(series.items())
    ]
    keys = [
        f'<text class="k s{i % 4}" x="{right - 4}" y="{top + 12 + 13 * i}" text-anchor="end">{escape(name)}</text>'
        for i, name in enumerate(series)
        if len(series) > 1
    ]
    labels = [
        (left - 4, top + 6, "end", f"{y1:.4g}"),
        (left - 4, bottom, "end", f"{y0:.4g}"),
        (left, bottom + 14, "start", f"{x0:g}"),
        (right, bottom + 14, "end", f"{x1:g}"),
    ]
    ticks = "".join(
        f'<text class="l" x="{x}" y="{y}" text-anchor="{anchor}">{text}</text>'
        for x, y, anchor, text in labels
    )
    name = escape(title)
    head = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{name}"><text class="t" x="{left}" y="16">{name}</text>'
    return f'{head}<path class="a" d="M{left},{top}V{bottom}H{right}"/>{ticks}{"".join(lines)}{"".join(keys)}</svg>'
