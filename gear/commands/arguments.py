"""Types of command line arguments."""

from __future__ import annotations

import argparse


def positive(text: str) -> int:
    """Return a whole number over 0; raise argparse's error for anything else."""
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number over 0")
    return int(text)
