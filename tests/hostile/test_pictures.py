"""Test ingest of images that are damaged, mislabelled or in unusual formats."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gear import paths
from gear.ingest import decode
from gear.ingest.records import EncodedSample, Reject
from gear.stages import ingest
from tests.support.datasets import settings
from tests.support.hostile_images import grey_tiff

EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 40 40
%%EndComments
(ran) (w) file closefile
showpage
"""


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def gradient(dtype: str, white: float) -> Image.Image:
    """Return an image whose grey rises from 0 to `white` from left to right."""
    return Image.fromarray(np.tile(np.linspace(0, white, 32), (32, 1)).astype(dtype))


def png(width: int, height: int) -> bytes:
    """Return a PNG that claims a size but has hardly any data."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + bytes(width) for _ in range(min(height, 20000))))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


def decoded(content: bytes, size: int = 32) -> np.ndarray | Reject:
    """Return what ingest makes of an encoded image."""
    found = decode._decode_sample(EncodedSample("a.png", "a cat", "cat", content), size)
    if isinstance(found, Reject):
        return found
    return np.asarray(Image.open(io.BytesIO(found.image)))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (EPS, "no image of the formats"),
        (b"", "no image of the formats"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no image of the formats"),
        (b"/* XPM */\nstatic char *a[] = {};", "no image of the formats"),
        (png(1, 1), "a side is under 2"),
        (png(1, 10_000), "a side is under 2"),
        (png(2, 20_000), "resized to 256 on the short side is over 64 megapixels"),
        (png(9000, 9000), "is over 64 megapixels"),
        (encoded(gradient("float32", 1e9), "TIFF"), "its values range from 0 to 1e+09"),
        (encoded(gradient("float32", float("nan")), "TIFF"), "its values range from nan"),
    ],
)
def test_a_picture_that_is_none_is_a_reject_with_its_reason(content: bytes, words: str) -> None:
    found = decoded(content, 256)
    assert isinstance(found, Reject)
    assert words in found.reason


@pytest.mark.parametrize(
    ("content", "tolerance"),
    [
        (encoded(gradient("uint16", 65535), "PNG"), 1),
        (encoded(gradient("uint16", 65535), "TIFF"), 1),
        (encoded(gradient("int32", 65535), "TIFF"), 1),
        (encoded(gradient("float32", 1), "TIFF"), 1),
        (encoded(gradient("float32", 255), "TIFF"), 1),
        (encoded(gradient("uint8", 255), "PNG"), 1),
        (encoded(gradient("uint8", 255), "BMP"), 1),
        (encoded(gradient("uint8", 255), "GIF"), 1),
    ],
)
def test_deep_pictures_are_scaled_to_eight_bits(content: bytes, tolerance: int) -> None:
    found = decoded(content)
    assert isinstance(found, np.ndarray)
    wanted = np.linspace(0, 255, 32)
    assert np.abs(found[16, :, 0] - wanted).max() <= tolerance + 0.5


def test_reasons_name_no_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError(f"decoder {object()} gave up")

    monkeypatch.setattr(decode, "read_square", fail)
    first, second = decoded(b"x"), decoded(b"y")
    assert isinstance(first, Reject)
    assert isinstance(second, Reject)
    assert first.reason == second.reason
    assert first.reason == "cannot be decoded: decoder <object object at 0x...> gave up"


def test_sizes_in_reasons_are_not_taken_for_addresses() -> None:
    found = decoded(grey_tiff(9000, 8000, (273, 4, [8])))
    assert isinstance(found, Reject)
    assert found.reason == "9000x8000 is over 64 megapixels"


def test_postscript_named_png_starts_no_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Put a program that leaves a mark in the place of Ghostscript, which Pillow would call."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/gs"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    for name in ("cats", "dogs"):
        (tmp_path / "root" / name).mkdir(parents=True)
        for number in range(4):
            pixels = np.random.default_rng(number + len(name)).integers(
                0, 256, (40, 40, 3), np.uint8
            )
            Image.fromarray(pixels).save(tmp_path / f"root/{name}/{number}.png")
    (tmp_path / "root/cats/evil.png").write_bytes(EPS)
    ingest.run(settings(source="folder", root="root", max_reject_share=0.2, val_share=0.3))
    (reject,) = json.loads((paths.SHARDS / "rejects.json").read_text())
    assert reject["file"] == "cats/evil.png"
    assert not (tmp_path / "ran").exists()


def mutants(content: bytes, random: np.random.Generator, count: int) -> list[bytes]:
    """Return copies with random bytes changed, cut off, repeated or filled."""

    def change(data: bytearray) -> bytes:
        for _ in range(int(random.integers(1, 8))):
            data[int(random.integers(len(data)))] = int(random.integers(256))
        return bytes(data)

    def cut(data: bytearray) -> bytes:
        return bytes(data[: int(random.integers(len(data)))])

    def fill(data: bytearray) -> bytes:
        start = int(random.integers(len(data)))
        data[start : start + 4] = random.choice(
            [b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff"]
        )
        return bytes(data)

    changes: list[Callable[[bytearray], bytes]] = [change, cut, fill]
    return [changes[n % 3](bytearray(content)) for n in range(count)]


KINDS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")


def fuzz(count: int) -> None:
    random = np.random.default_rng(0)
    pixels = np.random.default_rng(1).integers(0, 256, (24, 24, 3), np.uint8)
    for kind in KINDS:
        exif = {"exif": Image.Exif().tobytes()} if kind in ("JPEG", "PNG", "WEBP", "AVIF") else {}
        for mutant in mutants(encoded(Image.fromarray(pixels), kind, **exif), random, count):
            found = decoded(mutant)
            if isinstance(found, Reject):
                assert found.reason
                assert "\n" not in found.reason
                assert "0x7f" not in found.reason
            else:
                assert found.shape == (32, 32, 3)


def test_mutants_of_every_format_are_pictures_or_rejects() -> None:
    fuzz(150)


@pytest.mark.slow
def test_many_mutants_of_every_format_are_pictures_or_rejects() -> None:
    fuzz(4000)
