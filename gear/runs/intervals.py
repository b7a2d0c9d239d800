"""Confidence intervals and p-values of means over few seeds.

With few seeds a bootstrap's interval is too narrow (three differences have ten distinct resamples),
so intervals are Student's t, of paired differences or of the logarithms of paired ratios.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy import stats

LEVEL = 0.95
ROUNDING = 1e-9  # spreads below this share of the largest value are rounding


@dataclass(frozen=True)
class Interval:
    """A mean over seeds with its interval; `low` and `high` are None if there is none."""

    mean: float
    low: float | None
    high: float | None


def interval(values: Sequence[float], level: float = LEVEL) -> Interval:
    """Return the mean of independent values and its Student's t interval.

    There is no interval for fewer than two values, nor for equal ones, whose spread of 0 would give
    one of no width.

    level: confidence level in (0, 1). The mean of no values is nan.

    >>> found = interval([1.0, 2.0, 3.0])
    >>> round(found.low, 3), found.mean, round(found.high, 3)
    (-0.484, 2.0, 4.484)
    """
    if not _spread(values):
        return Interval(fmean(values) if values else math.nan, None, None)
    half = float(stats.t.ppf((1 + level) / 2, len(values) - 1)) * stdev(values) / len(values) ** 0.5
    return Interval(fmean(values), fmean(values) - half, fmean(values) + half)


def p_value(values: Sequence[float]) -> float:
    """Return the two-sided p-value of a t test that independent values have the mean 0.

    nan with fewer than two values, or equal ones. Else it is below 1 - `level` if `interval` leaves
    out 0.

    >>> round(p_value([1.0, 2.0, 3.0]), 3)
    0.074
    """
    if not _spread(values):
        return math.nan
    error = stdev(values) / len(values) ** 0.5
    return float(2 * stats.t.sf(abs(fmean(values)) / error, len(values) - 1))


def geometric_interval(logs: dict[int, float]) -> Interval:
    """Return the geometric mean and interval of ratios, given their logarithms by seed."""
    found = interval(list(logs.values()))
    low, high = (None if x is None else math.exp(x) for x in (found.low, found.high))
    return Interval(math.exp(found.mean), low, high)


def _spread(values: Sequence[float]) -> float:
    """Return the standard deviation; 0 if it is no more than rounding, or of fewer than two."""
    if len(values) < 2:
        return 0.0
    found = stdev(values)
    return found if found > ROUNDING * max(map(abs, values)) else 0.0
