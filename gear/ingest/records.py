"""What a data source yields: pictures, encoded samples, rejects."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Picture:
    """One decoded image: `concept` decides its split, so that near-twins share a side."""

    key: str
    concept: str
    category: str
    caption: str
    image: bytes  # PNG at training size


@dataclass(frozen=True)
class Reject:
    """One file left out, and why."""

    file: str
    reason: str


@dataclass(frozen=True)
class EncodedSample:
    """One image as a source stores it, with what is said of it."""

    key: str
    caption: str
    category: str
    image: bytes


ONE_CLASS = "image"  # the class of samples that name none
