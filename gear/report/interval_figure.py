"""Draw differences or ratios over seeds with their intervals, one row each, as an HTML figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from gear.report.line_chart import labels, ticks
from gear.runs.hypotheses import Effect

WIDTH = 460
MARGIN = 14  # left and right of the axis
ROW = 40  # height of an effect, its title included
TITLE = 14  # from the top of a row to the baseline of its title
MARK = 26  # from the top of a row to its marks
AXIS = 24  # height below the rows
TICKS = 6


@dataclass(frozen=True)
class Scale:
    """A horizontal axis from `low` to `high`."""

    low: float
    high: float

    def place(self, value: float) -> str:
        """Return the x coordinate of a value."""
        share = (value - self.low) / (self.high - self.low)
        return f"{MARGIN + share * (WIDTH - 2 * MARGIN):.1f}"


def interval_figure(effects: Sequence[Effect]) -> str:
    """Return an HTML figure with a row per effect: a dot per seed, the mean, its interval.

    The side of `limit` that was predicted is shaded. The effects share `limit` and axis.
    Returns "" if there are none.
    """
    if not effects:
        return ""
    limit, above = effects[0].limit, effects[0].above
    scale = _scale(effects, limit)
    height = ROW * len(effects)
    edges = (limit, scale.high) if above else (scale.low, limit)
    start, end = (float(scale.place(edge)) for edge in edges)
    parts = [
        f'<figure class="interval"><svg viewBox="0 0 {WIDTH} {height + AXIS}" role="img" '
        f'aria-label="{escape(_in_words(effects))}">',
        f'<rect class="side" x="{start:.1f}" y="0" width="{end - start:.1f}" height="{height}"/>',
        f'<path class="a" d="M{scale.place(limit)},0V{height}"/>',
        *(_row(scale, number, effect) for number, effect in enumerate(effects)),
        _axis(scale, height),
        "</svg></figure>",
    ]
    return "".join(parts)


def _scale(effects: Sequence[Effect], limit: float) -> Scale:
    values = [limit]
    for effect in effects:
        values += effect.per_seed.values()
        values += [x for x in (effect.interval.low, effect.interval.high) if x is not None]
    low, high = min(values), max(values)
    margin = (high - low) * 0.05 or max(abs(high), 1.0) * 0.1
    return Scale(low - margin, high + margin)


def _row(scale: Scale, number: int, effect: Effect) -> str:
    top = number * ROW
    middle = top + MARK
    parts = [f'<text x="{MARGIN}" y="{top + TITLE}">{escape(effect.title)}</text>']
    low, high = effect.interval.low, effect.interval.high
    if low is not None and high is not None:
        parts.append(f'<path class="bar" d="M{scale.place(low)},{middle}H{scale.place(high)}"/>')
    mean = scale.place(effect.interval.mean)
    parts.append(f'<path class="mean" d="M{mean},{middle - 7}V{middle + 7}"/>')
    for seed, value in effect.per_seed.items():
        parts.append(
            f'<circle class="seed" cx="{scale.place(value)}" cy="{middle}" r="4">'
            f"<title>seed {seed}: {value:.4g}</title></circle>"
        )
    return "".join(parts)


def _axis(scale: Scale, height: int) -> str:
    marks = ticks(scale.low, scale.high, TICKS)
    parts = [f'<path class="a" d="M{MARGIN},{height}H{WIDTH - MARGIN}"/>']
    for mark, text in zip(marks, labels(marks), strict=True):
        across = scale.place(mark)
        parts.append(f'<path class="a" d="M{across},{height}v4"/>')
        parts.append(f'<text x="{across}" y="{height + 16}" text-anchor="middle">{text}</text>')
    return "".join(parts)


def _in_words(effects: Sequence[Effect]) -> str:
    """Return a description for screen readers."""
    texts = []
    for effect in effects:
        low, high = effect.interval.low, effect.interval.high
        bounds = "" if low is None or high is None else f", interval {low:.3g} to {high:.3g}"
        texts.append(f"{effect.title}: mean {effect.interval.mean:.3g}{bounds}")
    return "; ".join(texts)
