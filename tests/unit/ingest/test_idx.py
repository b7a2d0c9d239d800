"""Test images in the idx format of MNIST: what is read, and what is refused in one line."""

from __future__ import annotations

import gzip
import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gear.core.errors import InputError
from gear.ingest.idx import IMAGES, LABELS, idx

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 28, 28), dtype=np.uint8)
NUMBERS = np.array([0, 2, 1, 1, 0, 2], dtype=np.uint8)


def idx_bytes(values: np.ndarray, kind: int = 8) -> bytes:
    header = bytes([0, 0, kind, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    return header + values.tobytes()


def write(root: Path, *, zipped: bool = True, images: bytes = b"", labels: bytes = b"") -> Path:
    root.mkdir(exist_ok=True)
    for name, content in (
        (IMAGES, images or idx_bytes(PIXELS)),
        (LABELS, labels or idx_bytes(NUMBERS)),
    ):
        packed = gzip.compress(content) if zipped else content
        (root / f"{name}{'.gz' if zipped else ''}").write_bytes(packed)
    return root


@pytest.mark.parametrize("zipped", [True, False])
def test_images_keep_their_pixels_and_get_a_border(tmp_path: Path, zipped: bool) -> None:
    samples = list(idx(write(tmp_path / "root", zipped=zipped), 32))
    assert [sample.category for sample in samples] == ["0", "2", "1", "1", "0", "2"]
    for sample, pixels in zip(samples, PIXELS, strict=True):
        assert isinstance(sample.image, bytes)
        image = np.asarray(Image.open(io.BytesIO(sample.image)))
        assert image.shape == (32, 32)
        assert np.array_equal(image[2:30, 2:30], pixels)
        assert set(image[:2].flat) == {pixels[0, 0]}


def test_no_border_where_none_is_needed(tmp_path: Path) -> None:
    (sample, *_) = idx(write(tmp_path / "root"), 16)
    assert isinstance(sample.image, bytes)
    assert Image.open(io.BytesIO(sample.image)).size == (28, 28)


def test_classes_have_the_names_of_a_file_or_of_fashion_mnist(tmp_path: Path) -> None:
    root = write(tmp_path / "my-fashion-mnist")
    assert [s.category for s in idx(root, 32)][:3] == ["T-shirt", "pullover", "trouser"]
    (root / "classes.txt").write_text("one\ntwo\nthree\n")
    assert [s.caption for s in idx(root, 32)][:3] == ["one", "three", "two"]
    (root / "classes.txt").write_text("one\ntwo\n")
    with pytest.raises(InputError, match="2 names, and labels go up to 2"):
        list(idx(root, 32))


@pytest.mark.parametrize(
    ("names", "message"),
    [("one\n\nthree\n", "line 2 is empty"), ("one\ntwo\none\n", "line 3 is the name of another")],
)
def test_classes_are_not_shifted_or_merged_by_their_names(
    tmp_path: Path, names: str, message: str
) -> None:
    root = write(tmp_path / "root")
    (root / "classes.txt").write_text(names)
    with pytest.raises(InputError, match=message):
        list(idx(root, 32))


def bomb() -> bytes:
    return bytes([0, 0, 8, 3]) + struct.pack(">3I", 2**32 - 1, 2**32 - 1, 2**32 - 1)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (idx_bytes(PIXELS)[:-1], "ends early"),
        (idx_bytes(PIXELS) + b"x", "longer than it announces"),
        (idx_bytes(PIXELS)[:9], "ends early"),
        (b"\x00", "no idx file"),
        (idx_bytes(PIXELS, kind=0x0D), "no idx file"),
        (idx_bytes(PIXELS[0]), "no idx file"),
        (idx_bytes(PIXELS[:5]), "5 images"),
        (idx_bytes(PIXELS[:0]), "announces nothing"),
        (bomb(), "GiB: at most 2 are read"),
    ],
)
def test_damaged_files_are_one_line(tmp_path: Path, images: bytes, message: str) -> None:
    root = write(tmp_path / "root", images=images)
    with pytest.raises(InputError, match=message) as caught:
        list(idx(root, 32))
    assert IMAGES in str(caught.value)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda file: file.write_bytes(file.read_bytes()[:40]),
        lambda file: file.write_bytes(b"no gzip"),
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(file.read_bytes()[:-20] + b"\xff" * 20),
    ],
)
def test_damaged_gzip_is_one_line(tmp_path: Path, spoil: Callable[[Path], object]) -> None:
    root = write(tmp_path / "root")
    spoil(root / f"{IMAGES}.gz")
    with pytest.raises(InputError, match=r"damaged|no idx file") as caught:
        list(idx(root, 32))
    assert "\n" not in str(caught.value)


def test_absent_files_say_where_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="dataset-fashion-mnist"):
        list(idx(tmp_path, 32))
