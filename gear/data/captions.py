"""Normalize and check captions; find those whose images must not be mirrored."""

from __future__ import annotations

import re
import unicodedata

import numpy as np

MAX_LENGTH = 2000  # characters
SIDES = re.compile(r"\b(left|right)(wards?|most|hand|handed)?\b", re.IGNORECASE)


def names_a_side(caption: str) -> bool:
    """Return whether a caption says left or right, so that its image must not be mirrored.

    >>> names_a_side("fist, left hand"), names_a_side("bright copyright")
    (True, False)
    """
    return bool(SIDES.search(caption))


def may_mirror(captions: list[str]) -> np.ndarray:
    """Return which of the captions' images may be mirrored, (N,) bool.

    >>> may_mirror(["a dog", "leftwards arrow"]).tolist()
    [True, False]
    """
    return np.array([not names_a_side(caption) for caption in captions])


def is_text(caption: str) -> bool:
    """Return whether a caption is readable text.

    It has a letter, digit or symbol, no control characters, and no replacement characters, which
    come from a wrong decoding.

    >>> is_text("red heart"), is_text("..."), is_text("bad \\ufffd bytes")
    (True, False, False)
    """
    if any(unicodedata.category(c) in ("Cc", "Cs", "Co") or c == "�" for c in caption):
        return False
    return any(c.isalnum() or unicodedata.category(c) == "So" for c in caption)


def normalize_caption(caption: str) -> str:
    """Return a caption with single spaces and composed Unicode (NFC).

    >>> normalize_caption("  a\\n  dog ")
    'a dog'
    """
    return " ".join(unicodedata.normalize("NFC", caption).split())
