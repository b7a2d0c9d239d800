"""Line charts as HTML figures: a title, a legend below it, and an SVG with axes.

A chart is complete without JavaScript. `templates/charts.js` adds values on hover and zoom; it
reads the points from the figure's `data-chart`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from typing import TypeVar

Point = tuple[float, float]
Tuple = TypeVar("Tuple", bound=tuple[float, ...])
Band = list[tuple[float, float, float]]  # x, least and greatest y
COLOURS = 8  # of lines; style.css gives each its own dashes
WIDTH = 360
HEIGHT = 190
TOP = 8  # of the chart's area
BOTTOM = HEIGHT - 22
EDGE = 5  # margin around the area that marks and wide lines may extend into
CHARACTER = 6.2  # width of a character of the labels, at most
X_TICKS = 5  # about
Y_TICKS = 4
MOST_POINTS = 300  # maximum points drawn of a line
MARKED = 12  # lines of at most this many points have a mark at each
STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)  # distances between ticks, times a power of ten


def line_chart(
    title: str,
    series: dict[str, list[Point]],
    *,
    from_zero: bool = False,
    bands: dict[str, Band] | None = None,
    x_name: str = "step",
) -> str:
    """Return an HTML figure with an SVG line chart; "" if there are no finite points.

    A line of many points is thinned (`thinned`). Equal lines are all visible: each has its own
    dashes, and those drawn first are wider.

    Args:
        title: Heading.
        series: Points (x, y) of each line, x rising, by its label.
        from_zero: Start the y axis at 0.
        bands: Areas behind lines, by the labels of these lines.
        x_name: What x is, for values on hover.
    """
    lines = {label: thinned(_finite(points)) for label, points in series.items()}
    areas = {label: _finite(band) for label, band in (bands or {}).items()}
    points = [point for line in lines.values() for point in line]
    if not points:
        return ""
    heights = [y for _, y in points]
    heights += [y for band in areas.values() for _, *ends in band for y in ends]
    axes = Axes.around([x for x, _ in points], [*heights, *([0.0] if from_zero else [])])
    parts = [
        f'<figure class="chart" data-chart="{escape(_data(axes, lines, x_name))}">',
        f"<figcaption>{escape(title)}</figcaption>",
        _legend(list(lines)) if len(lines) > 1 else "",
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(_in_words(title, lines))}">',
        f'<g class="axes">{axes.drawing()}</g>',
        _plot(axes),
        *(_area(axes, number, areas.get(label, [])) for number, label in enumerate(lines)),
        *(_line(axes, number, label, lines[label]) for number, label in enumerate(lines)),
        "</svg></svg></figure>",
    ]
    return "".join(parts)


def thinned(points: list[Point], most: int = MOST_POINTS) -> list[Point]:
    """Return at most `most` points of a line, including its ends, peaks and valleys.

    >>> len(thinned([(float(x), 0.0) for x in range(1000)], most=10))
    10
    >>> (500.0, 9.0) in thinned([(float(x), 9.0 * (x == 500)) for x in range(1000)], most=10)
    True
    """
    if len(points) <= most:
        return points
    buckets = (most - 2) // 2
    inner = points[1:-1]
    kept = [points[0]]
    for number in range(buckets):
        start, end = (len(inner) * n // buckets for n in (number, number + 1))
        bucket = range(start, end)
        ends = {
            min(bucket, key=lambda i: inner[i][1]),
            max(reversed(bucket), key=lambda i: inner[i][1]),
        }
        kept += [inner[i] for i in sorted(ends)]
    return [*kept, points[-1]]


def ticks(low: float, high: float, about: int, *, whole: bool = False) -> list[float]:
    """Return about `about` evenly spaced round numbers in [low, high]; low must be less than high.

    whole: integers only.

    >>> ticks(0, 800, about=5)
    [0.0, 200.0, 400.0, 600.0, 800.0]
    >>> ticks(0.113, 0.262, about=4), ticks(0, 12, about=5, whole=True)
    ([0.15, 0.2, 0.25], [0.0, 5.0, 10.0])
    """
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    if whole:
        power = max(power, 1.0)
    step = next(
        factor * power
        for factor in STEPS
        if factor * power >= rough * 0.999 and not (whole and factor * power % 1)
    )
    first, last = math.ceil(low / step - 1e-6), math.floor(high / step + 1e-6)
    return [float(f"{number * step:.10g}") for number in range(first, last + 1)]


@dataclass(frozen=True)
class Axes:
    """Ranges and ticks of a chart's axes, and the position of the chart's area."""

    x0: float
    x1: float
    y0: float
    y1: float
    whole: bool = False  # whether x are whole numbers, such as steps
    single: bool = False  # whether there is one x, in the middle

    @classmethod
    def around(cls, xs: list[float], ys: list[float]) -> Axes:
        """Return the axes of points: x from the first to the last, y from tick to tick.

        An empty range is widened, so that a single point lies in the middle.
        """
        x0, x1, y0, y1 = min(xs), max(xs), min(ys), max(ys)
        single, whole = x0 == x1, all(x % 1 == 0 for x in xs)
        if single:
            x0, x1 = x0 - 1, x1 + 1
        if y1 - y0 <= abs(y1) * 1e-9:
            y0, y1 = y0 - max(abs(y0), 1.0) * 0.1, y1 + max(abs(y1), 1.0) * 0.1
        marks = ticks(y0, y1, Y_TICKS)
        step = marks[1] - marks[0] if len(marks) > 1 else (y1 - y0) / 2
        lowest, highest = marks[0], marks[-1]
        y0 = lowest if y0 > lowest - step * 1e-6 else lowest - step
        y1 = highest if y1 < highest + step * 1e-6 else highest + step
        return cls(x0, x1, y0, y1, whole, single)

    @property
    def left(self) -> float:
        """Left edge of the chart's area: leaves room for the longest label of the y axis."""
        longest = max(len(text) for text in labels(ticks(self.y0, self.y1, Y_TICKS)))
        return round(10 + CHARACTER * longest, 1)

    @property
    def right(self) -> float:
        """Right edge: leaves room for half of the last label of the x axis."""
        longest = max(len(text) for text in labels(self.x_ticks()))
        return round(WIDTH - 4 - max(CHARACTER * longest / 2, 6.0), 1)

    def x_ticks(self) -> list[float]:
        """Return the ticks of the x axis."""
        if self.single:
            return [self.x0 + 1]
        return ticks(self.x0, self.x1, X_TICKS, whole=self.whole)

    def place(self, x: float, y: float) -> str:
        """Return the coordinates of a point in the chart's area."""
        across = (x - self.x0) / (self.x1 - self.x0) * (self.right - self.left)
        down = (self.y1 - y) / (self.y1 - self.y0) * (BOTTOM - TOP)
        return f"{across:.2f},{down:.2f}"

    def drawing(self) -> str:
        """Return the SVG of grid lines and labels."""
        parts = []
        marks = ticks(self.y0, self.y1, Y_TICKS)
        for mark, text in zip(marks, labels(marks), strict=True):
            down = TOP + (self.y1 - mark) / (self.y1 - self.y0) * (BOTTOM - TOP)
            parts.append(f'<path class="g" d="M{self.left},{down:.1f}H{self.right}"/>')
            parts.append(
                f'<text x="{self.left - 5:.1f}" y="{down + 4:.1f}" text-anchor="end">{text}</text>'
            )
        marks = self.x_ticks()
        for mark, text in zip(marks, labels(marks), strict=True):
            across = self.left + (mark - self.x0) / (self.x1 - self.x0) * (self.right - self.left)
            parts.append(f'<path class="a" d="M{across:.1f},{BOTTOM}v4"/>')
            parts.append(
                f'<text x="{across:.1f}" y="{BOTTOM + 16}" text-anchor="middle">{text}</text>'
            )
        parts.append(f'<path class="a" d="M{self.left},{TOP}V{BOTTOM}H{self.right}"/>')
        return "".join(parts)


def labels(marks: list[float]) -> list[str]:
    """Return short labels of ticks; different ticks have different labels.

    >>> labels([0.0, 250.0, 500.0]), labels([0.0, 50000.0, 100000.0]), labels([0.00012, 0.00014])
    (['0', '250', '500'], ['0', '50k', '100k'], ['1.2e-4', '1.4e-4'])
    >>> labels([1234567.0, 1234568.0])
    ['1.234567M', '1.234568M']
    """
    for digits in range(4, 16):
        texts = [_label(mark, digits) for mark in marks]
        if len(set(texts)) == len(marks) and all(
            float(f"{mark:.{digits}g}") == mark for mark in marks
        ):
            break
    return texts


def _label(mark: float, digits: int) -> str:
    size = abs(mark)
    for least, unit, name in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if least <= size < 1e13:
            return f"{mark / unit:.{digits}g}{name}"
    if size and not 1e-3 <= size < 1e13:
        number, power = f"{mark:.{digits - 1}e}".split("e")
        return f"{float(number):.{digits}g}e{int(power)}"
    return f"{mark:.{digits}g}"


def _finite(points: Iterable[Tuple]) -> list[Tuple]:
    return [point for point in points if all(map(math.isfinite, point))]


def _data(axes: Axes, lines: dict[str, list[Point]], x_name: str) -> str:
    """Return the data of a chart for charts.js, as JSON."""
    return json.dumps(
        {
            "axes": [axes.x0, axes.x1, axes.y0, axes.y1],
            "x": x_name,
            "whole": axes.whole,
            "area": [axes.left, TOP, axes.right, BOTTOM],
            "series": [
                {
                    "label": label,
                    "points": [[_shown(v) for v in point] for point in line],
                }
                for label, line in lines.items()
            ],
        },
        separators=(",", ":"),
    )


def _shown(value: float) -> float:
    """Return a value to six digits; steps of a million and more stay whole."""
    return value if abs(value) >= 1e6 and value % 1 == 0 else float(f"{value:.6g}")


def _in_words(title: str, lines: dict[str, list[Point]]) -> str:
    """Return a text description of a chart, for screen readers."""
    ends = [
        f"{label} from {line[0][1]:.4g} to {line[-1][1]:.4g}"
        for label, line in lines.items()
        if line
    ]
    return f"{title}: {'; '.join(ends)}"


def _legend(names: list[str]) -> str:
    items = (
        f'<li><svg class="swatch" viewBox="0 0 26 10" aria-hidden="true">'
        f'<path class="s{number % COLOURS}" d="M0,5H26"/></svg>{escape(name)}</li>'
        for number, name in enumerate(names)
    )
    return f'<ul class="legend">{"".join(items)}</ul>'


def _plot(axes: Axes) -> str:
    """Return the opening SVG tag of the chart's area, which clips what zooming moves out of it."""
    width, height = axes.right - axes.left + 2 * EDGE, BOTTOM - TOP + 2 * EDGE
    return (
        f'<svg class="plot" x="{axes.left - EDGE:.1f}" y="{TOP - EDGE}" width="{width:.1f}" '
        f'height="{height}" viewBox="{-EDGE} {-EDGE} {width:.1f} {height}" overflow="hidden">'
    )


def _area(axes: Axes, number: int, band: Band) -> str:
    if not band:
        return ""
    corners = [(x, high) for x, _, high in band] + [(x, low) for x, low, _ in reversed(band)]
    places = " ".join(axes.place(x, y) for x, y in corners)
    return f'<polygon class="b s{number % COLOURS}" points="{places}"/>'


def _line(axes: Axes, number: int, label: str, points: list[Point]) -> str:
    """Return a line, with a mark at each point if they are few; earlier lines are wider."""
    colour = f"s{number % COLOURS}"
    places = [axes.place(x, y) for x, y in points]
    thick = f' style="stroke-width:{max(3.0 - 0.6 * number, 1.6):.1f}"' if number < 3 else ""
    parts = [
        f'<polyline class="{colour}"{thick} points="{" ".join(places)}">'
        f"<title>{escape(label)}</title></polyline>"
    ]
    if len(points) <= MARKED:
        radius = max(3.6 - 0.6 * number, 1.8)
        for place in places:
            across, down = place.split(",")
            parts.append(f'<circle class="{colour}" cx="{across}" cy="{down}" r="{radius:.1f}"/>')
    return "".join(parts)
