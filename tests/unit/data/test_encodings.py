"""Test images in shards as PNG and as JPEG."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from gear.data.shards import Split, decode, encode, image_row, write_shards


def photograph(size: int = 64) -> np.ndarray:
    """Return a smooth image."""
    coarse = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))


def test_png_is_exact_and_jpeg_is_near_and_as_pillow_reads_it() -> None:
    pixels = photograph()
    assert np.array_equal(decode(encode(pixels, "png")), pixels)
    jpeg = encode(pixels, "jpeg")
    found = decode(jpeg)
    assert found.shape == pixels.shape
    assert found.dtype == np.uint8
    error = (found.astype(float) - pixels).std()
    assert 0 < error < 2
    with Image.open(io.BytesIO(jpeg)) as opened:
        assert opened.format == "JPEG"
        assert np.abs(np.asarray(opened).astype(int) - found).max() <= 1
    assert len(jpeg) < len(encode(pixels, "png"))


def test_a_split_reads_both(tmp_path: Path) -> None:
    pixels = photograph()
    rows = [
        image_row(str(i), encode(pixels, e), (64, 64), 0, "") for i, e in enumerate(("png", "jpeg"))
    ]
    write_shards(rows, tmp_path)
    images = Split(tmp_path).images(np.array([1, 0]))
    assert np.array_equal(images[1], pixels)
    assert np.array_equal(images[0], decode(encode(pixels, "jpeg")))
