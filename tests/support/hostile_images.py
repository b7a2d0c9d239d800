"""Images whose headers ask for more memory or time than their pixels need."""

from __future__ import annotations

import struct
import zlib

LETTERS = {1: "B", 3: "H", 4: "L", 11: "f", 16: "Q"}  # struct's, by a tag's type
Tag = tuple[int, int, list[int] | list[float]]  # number, type, values


def tiff(*tags: Tag, data: bytes = b"") -> bytes:
    """Return a TIFF of these tags; `data` begins at byte 8."""
    directory = 8 + len(data)
    rows, values = b"", b""
    after = directory + 2 + 12 * len(tags) + 4
    for number, kind, content in tags:
        packed = struct.pack(f"<{len(content)}{LETTERS[kind]}", *content)
        if len(packed) > 4:
            field = struct.pack("<L", after + len(values))
            values += packed
        else:
            field = packed.ljust(4, b"\0")
        rows += struct.pack("<HHL", number, kind, len(content)) + field
    header = b"II*\0" + struct.pack("<L", directory)
    return header + data + struct.pack("<H", len(tags)) + rows + bytes(4) + values


def grey_tiff(
    width: int, height: int, *tags: Tag, compression: int = 8, data: bytes = b""
) -> bytes:
    """Return a grey TIFF; `tags` say where its strips or tiles are. Compression 8 is zlib, 1 none.

    With zlib, `data` is compressed.
    """
    basic: list[Tag] = [(256, 4, [width]), (257, 4, [height]), (258, 3, [8])]
    basic += [(259, 3, [compression]), (262, 3, [1]), (277, 3, [1])]
    content = zlib.compress(data) if compression == 8 else data
    return tiff(*sorted([*basic, *tags]), data=content)


def huge_tile() -> bytes:
    """Return a TIFF of 16 x 16 pixels for which libtiff allocates a tile of 2 GiB."""
    tile: list[Tag] = [(322, 4, [32768]), (323, 4, [65520]), (324, 4, [8]), (325, 4, [74])]
    return grey_tiff(16, 16, *tile, data=bytes(1 << 16))


def jpeg_segment(marker: int, content: bytes) -> bytes:
    """Return a segment of a JPEG."""
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def many_scans(width: int, height: int, scans: int) -> bytes:
    """Return a grey progressive JPEG of `scans` scans, 12 bytes each, which is valid."""
    tables = jpeg_segment(0xDB, b"\0" + b"\1" * 64)
    for number in (0x00, 0x10):  # of DC and AC coefficients, one code each
        tables += jpeg_segment(0xC4, bytes([number, 1, *[0] * 15, 0]))
    frame = jpeg_segment(0xC2, struct.pack(">BHHB3B", 8, height, width, 1, 1, 0x11, 0))
    first = jpeg_segment(0xDA, bytes([1, 1, 0, 0, 0, 0])) + bytes(2)
    more = jpeg_segment(0xDA, bytes([1, 1, 0, 1, 63, 0])) + bytes(2)
    return b"\xff\xd8" + tables + frame + first + more * (scans - 1) + b"\xff\xd9"
