"""Test that decoding handles transparency and orientation."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from gear.ingest.decode import read_square


def test_pictures_are_read_as_they_are_meant_to_be_seen(tmp_path: Path) -> None:
    # red, but fully transparent
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (read_square(tmp_path / "clear.png", 8) == 255).all()
    left = Image.new("RGB", (8, 8), "white")
    left.paste("black", (0, 0, 4, 8))
    turned = Image.Exif()
    turned[0x0112] = 3  # upside down
    left.save(tmp_path / "turned.png", exif=turned)
    assert read_square(tmp_path / "turned.png", 8)[:, 4:].max() < 50
