"""Test images that cost more than their size: refused by their headers, before they are decoded.

And what must stay readable: unusual formats, modes and metadata that cameras and tools write.
"""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gear import paths
from gear.ingest.decode import decode_slice, read_square
from gear.ingest.image_headers import MAX_SCANS
from gear.ingest.records import EncodedSample, Picture, Reject
from gear.stages import ingest
from tests.support.datasets import picture, settings
from tests.support.hostile_images import grey_tiff, huge_tile, jpeg_segment, many_scans, tiff

STRIP = [(278, 4, [2]), (273, 4, [8] * 40), (279, 4, [8] * 40)]
TINY_TILES = [(322, 4, [1]), (323, 4, [1])]


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def noise(seed: int = 0, side: int = 40) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8))


def reason(content: bytes | Path) -> str:
    """Return why ingest rejects an image; "" if it does not."""
    (found,) = decode_slice([EncodedSample("a.png", "a cat", "cat", content)], 16, "png")
    assert isinstance(found, Picture | Reject)
    return found.reason if isinstance(found, Reject) else ""


def colour(content: bytes) -> tuple[int, int, int]:
    """Return the mean colour of an image as ingest reads it."""
    red, green, blue = read_square(io.BytesIO(content), 16).mean((0, 1)).round().astype(int)
    return int(red), int(green), int(blue)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_with(*chunks: bytes) -> bytes:
    """Return a PNG with chunks after its header."""
    content = encoded(noise(), "PNG")
    return content[:33] + b"".join(chunks) + content[33:]


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (huge_tile(), "a TIFF of tiles of 32768x65520 pixels: over 64 megapixels"),
        # a width that Pillow may skip and libtiff reads
        (grey_tiff(16, 16, (322, 16, [32768]), (323, 4, [65520])), "tag 322 is not one whole"),
        (grey_tiff(16, 16, (322, 4, [16]), (322, 4, [32768])), "a TIFF with two tags 322"),
        (grey_tiff(16, 4, *STRIP, compression=1), "of 40 strips or tiles: its size needs 2"),
        (
            grey_tiff(600, 600, *TINY_TILES, (324, 4, [8] * 360_000), compression=1),
            "of 360000 strips or tiles: over 262144",
        ),
        (b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 1 << 40), "a TIFF of 1099511627776 tags"),
        (b"MM\0+\0\x08\0\0" + bytes(100), "a BigTIFF in big-endian order"),
        (tiff(data=bytes(9))[:10], "a TIFF that ends before its tags"),
        (tiff((256, 4, [16])), "a TIFF without width or height"),
        (many_scans(8000, 8000, 20_000), "a JPEG of more than 100 scans"),
    ],
)
def test_a_header_that_asks_for_too_much_is_a_reject_with_its_reason(
    content: bytes, words: str
) -> None:
    assert words in reason(content)


def test_a_file_over_the_bound_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "sparse.webp").open("wb") as file:
        file.write(b"RIFF\xff\xff\xff\x7fWEBPVP8L")
        file.truncate(600 << 20)
    assert reason(tmp_path / "sparse.webp") == "600 MiB: over 512 MiB"


def test_usual_headers_are_read() -> None:
    image = noise(side=300)
    assert not reason(many_scans(64, 64, MAX_SCANS))
    assert not reason(encoded(image, "JPEG", progressive=True))
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        assert not reason(encoded(image, "TIFF", compression=compression))
        assert not reason(encoded(image, "TIFF", compression=compression, big_tiff=True))
        tile = {322: 64, 323: 64}
        assert not reason(encoded(image, "TIFF", compression=compression, tiffinfo=tile))
    assert not reason(encoded(image.convert("1"), "TIFF", compression="group4"))


@pytest.mark.parametrize("where", ["before", "after"])
def test_scans_of_thumbnails_and_appended_films_do_not_count(where: str) -> None:
    content, film = encoded(noise(), "JPEG"), b"\0\2\xff\xda" * 200
    if where == "before":
        content = content[:2] + jpeg_segment(0xE5, film) + content[2:]
    else:
        content += film
    assert not reason(content)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "AVIF", "TIFF", "MPO"])
def test_the_first_of_many_frames_is_read(kind: str) -> None:
    frames = [Image.new("RGB", (32, 32), name) for name in ("red", "lime", "blue")]
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:] * 20)
    assert np.abs(np.array(colour(content)) - (255, 0, 0)).max() <= 3


@pytest.mark.parametrize(
    "kind", ["ICO", "ICNS", "PCX", "TGA", "SGI", "DDS", "JPEG2000", "PDF", "EPS"]
)
def test_other_formats_that_pillow_reads_are_refused(kind: str) -> None:
    assert reason(encoded(noise(), kind)).startswith("no image of the formats JPEG, PNG")


def test_photoshop_files_are_refused() -> None:
    header = b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 40, 40, 8, 3)
    assert reason(header + bytes(14 + 3 * 1600)).startswith("no image of the formats")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF"])
def test_half_a_file_is_a_reject_with_a_reason(kind: str) -> None:
    content = encoded(noise(), kind)
    said = reason(content[: len(content) // 2])
    assert said.startswith(("cannot be decoded: ", "no image of the formats", "a TIFF that ends"))
    assert len(said) > len("cannot be decoded: ")


@pytest.mark.timeout(60)
def test_compressed_texts_and_profiles_of_a_png_are_bounded() -> None:
    bomb = zlib.compress(bytes(200 << 20))
    for name, start in ((b"iCCP", b"x\0\0"), (b"zTXt", b"x\0\0"), (b"iTXt", b"x\0\1\0\0\0")):
        assert "Decompressed data too large" in reason(png_with(chunk(name, start + bomb)))
    million = chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(1_000_000)))
    assert "Too much memory used in text chunks" in reason(png_with(million * 100))
    assert "Truncated File Read" in reason(png_with(b"\x7f\xff\xff\xfftEXt"))


def test_broken_profiles_of_colour_are_ignored() -> None:
    assert not reason(png_with(chunk(b"iCCP", b"x\0\0no zlib")))
    for kind in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF"):
        assert not reason(encoded(noise(), kind, icc_profile=b"\xff" * 1000))


def turned(*tags: tuple[int, int, list[int] | list[float]]) -> bytes:
    """Return a JPEG that is black on the left, with EXIF tags."""
    image = Image.new("RGB", (32, 32), "white")
    image.paste("black", (0, 0, 16, 32))
    return encoded(image, "JPEG", exif=b"Exif\0\0" + tiff(*tags))


def is_black_on_the_left(content: bytes) -> bool:
    return bool(read_square(io.BytesIO(content), 16)[:, :6].max() < 50)


@pytest.mark.parametrize("value", [0, 1, 9, 255, 65535])
def test_an_orientation_that_is_none_turns_nothing(value: int) -> None:
    assert is_black_on_the_left(turned((0x0112, 3, [value])))


@pytest.mark.parametrize(
    "tag",
    [
        (0x0100, 11, [1.5]),  # a width of one and a half
        (0x011A, 11, [float("nan")]),  # a resolution of nothing
        (0x8769, 4, [99999]),  # a directory beyond the end
    ],
)
def test_other_exif_tags_of_wrong_types_are_no_reason_to_reject(
    tag: tuple[int, int, list[int] | list[float]],
) -> None:
    content = turned(tag, (0x0112, 3, [3]))
    assert not reason(content)
    assert not is_black_on_the_left(content)


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0junk", b"Exif\0\0II*\0\xff\xff\xff\xff"])
def test_broken_exif_is_no_reason_to_reject(exif: bytes) -> None:
    assert not reason(encoded(noise(), "JPEG", exif=exif))


def test_colours_of_unusual_modes_are_as_meant() -> None:
    red = Image.new("RGB", (32, 32), "red")
    for content in (
        encoded(red.convert("CMYK"), "JPEG", quality=100),
        encoded(red.convert("CMYK"), "TIFF"),
        encoded(red.quantize(4), "PNG"),
        encoded(red.quantize(4), "GIF"),
        encoded(red.convert("RGBA"), "TIFF"),
    ):
        assert np.abs(np.array(colour(content)) - (255, 0, 0)).max() <= 3
    white, clear = (255, 255, 255), red.quantize(4).getpixel((0, 0))
    assert colour(encoded(red.quantize(4), "PNG", transparency=clear)) == white
    assert colour(encoded(red.quantize(4), "GIF", transparency=clear)) == white
    assert colour(encoded(red, "PNG", transparency=(255, 0, 0))) == white
    for kind in ("PNG", "TIFF", "BMP"):
        assert colour(encoded(Image.new("1", (32, 32), 1), kind)) == white
        assert colour(encoded(Image.new("1", (32, 32), 0), kind)) == (0, 0, 0)


@pytest.mark.timeout(300)
def test_hostile_files_of_a_folder_are_rejects_and_the_others_are_ingested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bomb = zlib.compress(bytes(200 << 20))
    bad = {
        "cats/tile.png": huge_tile(),
        "cats/scans.jpg": many_scans(8000, 8000, 20_000),
        "dogs/text.png": png_with(chunk(b"zTXt", b"x\0\0" + bomb)),
        "dogs/script.jpg": encoded(noise(), "EPS"),
        "dogs/half.png": picture(1)[:2000],
    }
    for name in ("cats", "dogs"):
        (tmp_path / "root" / name).mkdir(parents=True)
        for number in range(4):
            (tmp_path / f"root/{name}/{number}.png").write_bytes(
                picture(number + (name == "dogs") * 10)
            )
    for name, content in bad.items():
        (tmp_path / "root" / name).write_bytes(content)
    ingest.run(settings(source="folder", root="root", max_reject_share=0.5, val_share=0.3))
    rejects = json.loads((paths.SHARDS / "rejects.json").read_text())
    assert sorted(row["file"] for row in rejects) == sorted(bad)
    assert all(row["reason"] for row in rejects)
    manifest = json.loads((paths.SHARDS / "manifest.json").read_text())
    assert manifest["train"] + manifest["val"] == 8
