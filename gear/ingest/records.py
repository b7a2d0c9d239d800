"""What a data source yields: pictures, samples that are not decoded yet, rejects."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ONE_CLASS = "image"  # the class of samples without one


@dataclass(frozen=True)
class Picture:
    """An image at training size; all images of a concept are in the same split.

    image: PNG.
    """

    key: str
    concept: str
    category: str
    caption: str
    image: bytes


@dataclass(frozen=True)
class Reject:
    """A file that cannot be used, and the reason."""

    file: str
    reason: str


@dataclass(frozen=True)
class EncodedSample:
    """An image as a source stores it, with its caption and category.

    image: the encoded bytes, or the file that holds them.
    """

    key: str
    caption: str
    category: str
    image: bytes | Path
