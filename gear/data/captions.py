"""Normalize and check captions; find those whose images must not be mirrored."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np

from gear.core.text import BIDI

MAX_LENGTH = 2000  # characters
SIDES = re.compile(r"\b(left|right)(wards?|most|hand|handed)?\b", re.IGNORECASE)


def names_a_side(caption: str) -> bool:
    """Return whether a caption says left or right, so that its image must not be mirrored.

    >>> names_a_side("fist, left hand"), names_a_side("bright copyright")
    (True, False)
    """
    return bool(SIDES.search(caption))


def may_mirror(captions: Sequence[str]) -> np.ndarray:
    """Return which of the captions' images may be mirrored, (N,) bool.

    >>> may_mirror(["a dog", "leftwards arrow"]).tolist()
    [True, False]
    """
    return np.array([not names_a_side(caption) for caption in captions])


def seen_captions(captions: Sequence[str], training: Iterable[str]) -> np.ndarray:
    """Return which captions are equal to a training caption, character by character, (N,) bool.

    >>> seen_captions(["a dog", "a cat", "A dog"], ["a dog", "a bird"]).tolist()
    [True, False, False]
    """
    names = set(captions)
    seen = {caption for caption in training if caption in names}
    return np.array([caption in seen for caption in captions], dtype=bool)


SYMBOLS = ("So", "Sm", "Sc", "Sk")  # emoji, mathematics, currencies, modifiers


def is_text(caption: str) -> bool:
    """Return whether a caption is readable text.

    It has a letter, a digit or a symbol such as an emoji, and no control, surrogate, private-use or
    replacement characters, which come from a wrong decoding.

    >>> is_text("red heart"), is_text("..."), is_text("bad \\ufffd bytes")
    (True, False, False)
    """
    if any(unicodedata.category(c) in ("Cc", "Cs", "Co") or c == "�" for c in caption):
        return False
    return any(c.isalnum() or unicodedata.category(c) in SYMBOLS for c in caption)


def text_fault(text: str, what: str) -> str:
    r"""Return why a text cannot be stored and shown; "" if it can. `what`: its name in that reason.

    >>> text_fault("a\ud800", "name"), text_fault("a\u202eb", "caption")
    ('its name is not UTF-8', 'its caption has the control character U+202E')
    """
    for c in text:
        if unicodedata.category(c) == "Cs":
            return f"its {what} is not UTF-8"
        if unicodedata.category(c) == "Cc" or c in BIDI:
            return f"its {what} has the control character U+{ord(c):04X}"
    if len(text) > MAX_LENGTH:
        return f"its {what} has {len(text)} characters, over {MAX_LENGTH}"
    return ""


def caption_fault(caption: str) -> str:
    """Return why a normalized caption cannot be stored and shown; "" if it can.

    The data gate checks whether it is readable (`is_text`).

    >>> caption_fault("a dog"), caption_fault("a" * 2001)
    ('', 'its caption has 2001 characters, over 2000')
    """
    if len(caption) > MAX_LENGTH:
        return f"its caption has {len(caption)} characters, over {MAX_LENGTH}"
    return text_fault(caption, "caption")


def normalize_caption(caption: str) -> str:
    """Return a caption in Unicode NFC, stripped, with single spaces.

    >>> normalize_caption("  a\\n  dog ")
    'a dog'
    """
    return " ".join(unicodedata.normalize("NFC", caption).split())
