"""Check the headers of untrusted image files before a decoder reads them.

The number of pixels bounds most decoders. These checks are about files whose headers ask for
memory or time that their few pixels do not need, and that Pillow does not refuse by itself.
"""

from __future__ import annotations

import io
import re
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import BinaryIO

from PIL import Image

# formats of photographs and web images; Pillow's other decoders start programs (EPS) or are rarely
# used, so that their vulnerabilities are found and fixed late
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
MAX_PIXELS = 64_000_000  # of an image, before and after it is resized
MAX_BYTES = 512 << 20  # of a file; MAX_PIXELS of four 16-bit channels, uncompressed, are 488 MiB
MAX_SCANS = 100  # of a JPEG
MAX_PIECES = 1 << 18  # strips or tiles of a TIFF; Pillow keeps an object for each
CHANNELS = 6  # maximum that Pillow reads of a TIFF; each may have strips of its own

# JPEG markers after which libjpeg goes on: frames, tables, scans, APPn and comments, which have a
# length, and the end of the image
JPEG_MARKER = re.compile(rb"\xff([\xc0-\xc4\xc9-\xcc\xd9-\xdd\xe0-\xef\xfe])")
SCAN, END = b"\xda", b"\xd9"

TIFF_STARTS = (b"II*\0", b"MM\0*", b"II\0*", b"MM*\0", b"II+\0")  # that Pillow reads
MAX_TAGS = 1 << 16  # there are no more different ones
WIDTH, HEIGHT, ROWS_OF_STRIP, TILE_WIDTH, TILE_HEIGHT = SIZES = (256, 257, 278, 322, 323)
STRIP_OFFSETS, TILE_OFFSETS = 273, 324
USED_TAGS = (*SIZES, STRIP_OFFSETS, TILE_OFFSETS)
INTEGERS = {1: "B", 3: "H", 4: "L", 16: "Q"}  # struct's letters by a tag's type


class RefusedImage(ValueError):
    """An image that is not used, whatever its decoder says; the message is the reason."""


@contextmanager
def open_image(source: Path | io.BytesIO) -> Iterator[Image.Image]:
    """Open an untrusted image; its pixels are read later.

    Raises:
        RefusedImage: if its header asks for more than an image of its size needs.
        Exception: of any type, by a decoder, if the file is damaged.
    """
    with (
        source.open("rb") if isinstance(source, Path) else nullcontext(source) as file,
        warnings.catch_warnings(action="ignore"),
    ):
        check_header(file)
        with Image.open(file, formats=FORMATS) as opened:
            yield opened


def check_header(file: BinaryIO) -> None:
    """Raise `RefusedImage` if an image file asks for more than an image of its size needs.

    The file is rewound.
    """
    size = file.seek(0, io.SEEK_END)
    if size > MAX_BYTES:
        raise RefusedImage(f"{size >> 20} MiB: over {MAX_BYTES >> 20} MiB")
    file.seek(0)
    start = file.read(4)
    if start.startswith(b"\xff\xd8\xff"):
        file.seek(0)
        _check_scans(file.read())
    elif start == b"MM\0+":
        raise RefusedImage("a BigTIFF in big-endian order: not read")
    elif start in TIFF_STARTS:
        _check_pieces(_first_directory(file, start))
    file.seek(0)


def _check_scans(content: bytes) -> None:
    """Raise `RefusedImage` if a JPEG has more than `MAX_SCANS` scans.

    A scan of ten bytes makes libjpeg visit every block of the image: 300 kB can take minutes, see
    https://libjpeg-turbo.org/pmwiki/uploads/About/TwoIssueswiththeJPEGStandard.pdf. Chromium, GDAL
    and libtiff (LIBTIFF_JPEG_MAX_ALLOWED_SCAN_NUMBER) stop at 100 scans; the fuzzers of
    libjpeg-turbo stop at 500, of at most one megapixel. Usual encoders write about ten.
    """
    if content.count(b"\xff" + SCAN) <= MAX_SCANS:  # counts what looks like scans in metadata too
        return
    scans = position = 0
    while (marker := JPEG_MARKER.search(content, position)) and marker[1] != END:
        scans += marker[1] == SCAN
        if scans > MAX_SCANS:
            raise RefusedImage(f"a JPEG of more than {MAX_SCANS} scans")
        length = int.from_bytes(content[marker.end() : marker.end() + 2], "big")
        position = marker.end() + max(2, length)


@dataclass(frozen=True)
class Tag:
    """A tag of a TIFF: how many values it has, and the value if it is a single whole number."""

    count: int
    number: int | None


def _first_directory(file: BinaryIO, start: bytes) -> dict[int, Tag]:
    """Return the tags of a TIFF's first image that `_check_pieces` needs.

    Raises:
        RefusedImage: if they are cut off, or if one occurs twice, so that decoders may read others.
    """
    order = "<" if start.startswith(b"II") else ">"
    is_big = start == b"II+\0"
    entry = struct.Struct(order + ("HHQ8s" if is_big else "HHL4s"))
    file.seek(8 if is_big else 4)
    offset = _read_number(file, order + ("Q" if is_big else "L"))
    file.seek(min(offset, MAX_BYTES))
    count = _read_number(file, order + ("Q" if is_big else "H"))
    if count > MAX_TAGS:
        raise RefusedImage(f"a TIFF of {count} tags: over {MAX_TAGS}")
    rows = file.read(count * entry.size)
    tags: dict[int, Tag] = {}
    for tag, kind, values, field in entry.iter_unpack(rows[: len(rows) // entry.size * entry.size]):
        if tag not in USED_TAGS:
            continue
        if tag in tags:
            raise RefusedImage(f"a TIFF with two tags {tag}")
        letter = struct.Struct(order + INTEGERS.get(kind, "Q"))
        is_inline = kind in INTEGERS and values == 1 and letter.size <= len(field)
        tags[tag] = Tag(values, letter.unpack_from(field)[0] if is_inline else None)
    return tags


def _read_number(file: BinaryIO, kind: str) -> int:
    """Return an integer in struct's format. Raises `RefusedImage` if the file ends before it."""
    content = file.read(struct.calcsize(kind))
    if len(content) < struct.calcsize(kind):
        raise RefusedImage("a TIFF that ends before its tags")
    number: int = struct.unpack(kind, content)[0]
    return number


def _check_pieces(tags: dict[int, Tag]) -> None:
    """Raise `RefusedImage` if the tiles of a TIFF are too large, or if it has too many of them.

    libtiff allocates a whole tile, whatever the size of the image. Pillow reads each strip or tile
    that is listed, also if the image needs fewer.
    """
    if not {WIDTH, HEIGHT} <= tags.keys():
        raise RefusedImage("a TIFF without width or height")
    sizes = {tag: tags[tag].number for tag in SIZES if tag in tags}
    if wrong := [tag for tag, number in sizes.items() if number is None]:
        raise RefusedImage(f"a TIFF whose tag {wrong[0]} is not one whole number")
    width, height, rows, tile_width, tile_height = (sizes.get(tag) or 0 for tag in SIZES)
    if tile_width * tile_height > MAX_PIXELS:
        raise RefusedImage(
            f"a TIFF of tiles of {tile_width}x{tile_height} pixels: "
            f"over {MAX_PIXELS // 10**6} megapixels"
        )
    strips = ceil(height / min(rows or height, height)) if height else 0
    tiles = ceil(width / (tile_width or width or 1)) * ceil(height / (tile_height or height or 1))
    for tag, needed in ((STRIP_OFFSETS, strips), (TILE_OFFSETS, tiles)):
        count = tags[tag].count if tag in tags else 0
        if count > MAX_PIECES:
            raise RefusedImage(f"a TIFF of {count} strips or tiles: over {MAX_PIECES}")
        if count > needed * CHANNELS:
            raise RefusedImage(f"a TIFF of {count} strips or tiles: its size needs {needed}")
