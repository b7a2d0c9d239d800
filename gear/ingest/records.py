"""Items that a data source yields: decoded pictures, encoded samples and rejects."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gear.core.errors import InputError
from gear.core.text import one_line
from gear.data.near_twins import thumbnail
from gear.data.shards import encode

ONE_CLASS = "image"  # the class of samples without one
LONGEST = 300  # maximum characters of a name or reason
ADDRESS = re.compile(r"\b0x[0-9a-fA-F]+")  # memory address of an object, different in every run


def class_as_caption(name: str) -> str:
    """Return the caption of an image that has none: the name of its class.

    >>> class_as_caption("Food_and_Drink")
    'Food and Drink'
    """
    return name.replace("_", " ")


@dataclass(frozen=True)
class Picture:
    """An image at training size; all images of a concept are in the same split.

    image: encoded as PNG or JPEG. thumbnail: (8, 8, 3) uint8, for the near-twin search.
    """

    key: str
    concept: str
    category: str
    caption: str
    image: bytes
    thumbnail: np.ndarray

    @staticmethod
    def of_pixels(
        pixels: np.ndarray,
        key: str,
        concept: str,
        category: str,
        caption: str,
        encoding: str = "png",
    ) -> Picture:
        """Return the picture of pixels (S, S, 3) uint8."""
        image = encode(pixels, encoding)
        return Picture(key, concept, category, caption, image, thumbnail(pixels))


@dataclass(frozen=True)
class Reject:
    """A file, row or member that cannot be used, and the reason; both printable."""

    file: str
    reason: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "file", one_line(self.file, LONGEST))
        object.__setattr__(self, "reason", one_line(ADDRESS.sub("0x...", self.reason), LONGEST))


@dataclass(frozen=True)
class BrokenArchive(Reject):
    """An archive that ends early or is damaged; the number of lost samples is unknown."""


@dataclass(frozen=True)
class FileRange:
    """`size` bytes of a file from `start` on, such as a member of an archive; read when needed."""

    file: Path
    start: int
    size: int

    def read(self) -> bytes:
        """Return the bytes.

        Raises:
            InputError: if the file cannot be read or has become shorter.
        """
        try:
            with self.file.open("rb") as opened:
                opened.seek(self.start)
                content = opened.read(self.size)
        except OSError as error:
            raise InputError(
                f"{self.file}: cannot be read ({error.strerror}): ingest, and every worker of "
                "host.cluster, reads it at this path"
            ) from None
        if len(content) != self.size:
            raise InputError(f"{self.file}: became shorter while it was read: start ingest again")
        return content


@dataclass(frozen=True)
class EncodedSample:
    """An image as a source stores it, with its caption and category.

    image: the encoded bytes, or the file that holds them, which is small to send to a process.
    """

    key: str
    caption: str
    category: str
    image: bytes | Path | FileRange
