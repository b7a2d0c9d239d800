"""Argument types for argparse."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

MOST = 10**6  # images, GPUs
LEAST_SAMPLES = 10  # more than any metric needs neighbours
MOST_SEED = 10**9
MOST_PORT = 65535


def positive(text: str) -> int:
    """Return a whole number from 1 to a million; raise argparse's error for anything else."""
    return _whole(text, MOST)


def samples(text: str) -> int:
    """Return a number of samples that metrics can be computed of: from 10 to a million."""
    count = _whole(text, MOST)
    if count < LEAST_SAMPLES:
        raise argparse.ArgumentTypeError(
            f"{text} is too few for a metric: at least {LEAST_SAMPLES}"
        )
    return count


def port(text: str) -> int:
    """Return a port number from 1 to 65535, or 0 for any free port."""
    return 0 if text == "0" else _whole(text, MOST_PORT)


def _whole(text: str, most: int) -> int:
    digits = text.isascii() and text.isdigit() and len(text) <= len(str(most))
    if not digits or not 0 < int(text) <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number over 0 (at most {most})")
    return int(text)


def seed(text: str) -> int:
    """Return a whole number from 0 to a billion; raise argparse's error for anything else."""
    return 0 if text == "0" else _whole(text, MOST_SEED)


def number(low: float, high: float) -> Callable[[str], float]:
    """Return an argument type for numbers in [low, high]."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {low:g} to {high:g}")
        return value

    return parse
