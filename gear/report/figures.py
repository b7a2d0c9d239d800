"""Figures of the report: grids of images and SVG line charts."""

from __future__ import annotations

import io
import textwrap
from dataclasses import dataclass
from html import escape

import numpy as np
from PIL import Image, ImageDraw

from gear.data.row_selection import evenly_spaced

MARGIN = 130
GAP = 2
ROWS = 40  # of a grid of classes, at most
LINES = 5  # of the name of a row, at most
Band = list[tuple[float, float, float]]  # x, least and greatest y
COLOURS = 8  # of the lines of a chart
WIDTH = 360  # of a chart
HEIGHT = 200
LEFT = 48  # of the chart's area
TOP = 26
RIGHT = WIDTH - 10
BOTTOM = HEIGHT - 24


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
    title: str,
    series: dict[str, list[tuple[float, float]]],
    *,
    from_zero: bool = False,
    bands: dict[str, Band] | None = None,
) -> str:
    """Return an SVG line chart; "" if there are no points.

    Args:
        title: Heading.
        series: Points (x, y) of each line, by its label.
        from_zero: Start the y axis at 0.
        bands: Areas behind lines, by the labels of those.
    """
    points = [point for line in series.values() for point in line]
    if not points:
        return ""
    xs = [x for x, _ in points]
    ys = [y for _, y in points]
    ys += [y for band in (bands or {}).values() for _, *ends in band for y in ends]
    axes = _Axes(min(xs), max(xs), min(0.0, *ys) if from_zero else min(ys), max(ys))
    name = escape(title)
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{name}">',
        f'<text class="t" x="{LEFT}" y="16">{name}</text>',
        f'<path class="a" d="M{LEFT},{TOP}V{BOTTOM}H{RIGHT}"/>',
        *axes.labels(),
    ]
    for number, label in enumerate(series):
        band = (bands or {}).get(label, [])
        corners = [(x, high) for x, _, high in band] + [(x, low) for x, low, _ in reversed(band)]
        if corners:
            places = " ".join(axes.place(x, y) for x, y in corners)
            parts.append(f'<polygon class="b s{number % COLOURS}" points="{places}"/>')
    for number, (label, line) in enumerate(series.items()):
        places = " ".join(axes.place(x, y) for x, y in line)
        parts.append(
            f'<polyline class="s{number % COLOURS}" points="{places}">'
            f"<title>{escape(label)}</title></polyline>"
        )
    for number, label in enumerate(series if len(series) > 1 else ()):
        parts.append(
            f'<text class="k s{number % COLOURS}" x="{RIGHT - 4}" y="{TOP + 12 + 13 * number}" '
            f'text-anchor="end">{escape(label)}</text>'
        )
    return "".join([*parts, "</svg>"])


@dataclass
class _Axes:
    """The ranges of a chart's axes; an empty range is widened."""

    x0: float
    x1: float
    y0: float
    y1: float

    def __post_init__(self) -> None:
        self.x1 += self.x1 == self.x0
        if self.y1 == self.y0:
            self.y1 += max(abs(self.y1), 1.0) * 0.1

    def place(self, x: float, y: float) -> str:
        """Return the SVG coordinates of a point."""
        across = LEFT + (x - self.x0) / (self.x1 - self.x0) * (RIGHT - LEFT)
        down = BOTTOM - (y - self.y0) / (self.y1 - self.y0) * (BOTTOM - TOP)
        return f"{across:.1f},{down:.1f}"

    def labels(self) -> list[str]:
        """Return the SVG labels of the ends of both axes."""
        places = [
            (LEFT - 4, TOP + 6, "end", f"{self.y1:.4g}"),
            (LEFT - 4, BOTTOM, "end", f"{self.y0:.4g}"),
            (LEFT, BOTTOM + 14, "start", f"{self.x0:g}"),
            (RIGHT, BOTTOM + 14, "end", f"{self.x1:g}"),
        ]
        return [
            f'<text class="l" x="{x}" y="{y}" text-anchor="{anchor}">{text}</text>'
            for x, y, anchor, text in places
        ]
