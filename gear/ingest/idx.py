"""Images and labels in the idx format of MNIST as a data source; files are untrusted.

The format is described at http://yann.lecun.com/exdb/mnist/: a magic number with the type of the
values and the number of dimensions, then the dimensions, then the values.
"""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from gear.core.errors import InputError
from gear.ingest.records import EncodedSample

IMAGES = "train-images-idx3-ubyte"
LABELS = "train-labels-idx1-ubyte"
CLASSES = "classes.txt"  # names of the labels 0, 1, ..., one a line; without it, the numbers
UNSIGNED_BYTES = 0x08  # type of the values, third byte of the magic number
MOST = 2 << 30  # bytes of values
FASHION = "fashion-mnist"  # a folder with this in its name has the classes below
FASHION_CLASSES = (
    "T-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)


def idx(root: Path, size: int) -> Iterator[EncodedSample]:
    """Yield the training images of idx files, gzipped or not, in their order.

    Images smaller than `size` are padded with the value of their first pixel, as is usual to bring
    28 pixels to 32. The caption is the name of the class.

    Raises:
        InputError: if files are absent or damaged, or do not belong together.
    """
    image_file, label_file = (_find(root, name) for name in (IMAGES, LABELS))
    images = _read(image_file, dimensions=3)
    labels = _read(label_file, dimensions=1)
    if len(images) != len(labels):
        raise InputError(
            f"{image_file} has {len(images)} images and {label_file} {len(labels)} labels: "
            "take both from one data set"
        )
    names = _class_names(root, int(labels.max()) + 1 if len(labels) else 0)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        name = names[int(label)]
        yield EncodedSample(f"{number:06d}", name, name, _png(image, size))


def _png(image: np.ndarray, size: int) -> bytes:
    """Return a grey image (H, W) uint8 as PNG, with a border if it is smaller than `size`."""
    missing = [max(0, size - side) for side in image.shape]
    border = [(one // 2, one - one // 2) for one in missing]
    buffer = io.BytesIO()
    padded = np.pad(image, border, constant_values=image.flat[0])
    Image.fromarray(padded).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def _find(root: Path, name: str) -> Path:
    for file in (root / name, root / f"{name}.gz"):
        if file.is_file():
            return file
    raise InputError(
        f"data.root: {root} has no {name}, gzipped or not: name a folder that has it "
        "(Fashion-MNIST: Debian's package dataset-fashion-mnist has it in "
        "/usr/share/datasets/fashion-mnist)"
    )


def _read(file: Path, dimensions: int) -> np.ndarray:
    """Return the values of an idx file of unsigned bytes; at most one byte too many is read.

    Raises:
        InputError: if it is damaged or of another kind.
    """
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
            shape = _shape(stream, file, dimensions)
            count = int(np.prod(shape, dtype=object))
            if count > MOST:
                raise InputError(
                    f"{file}: announces {count >> 30} GiB: at most {MOST >> 30} are read"
                )
            values = stream.read(count + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{file}: damaged: {error}: get it anew") from None
    if len(values) != count:
        what = "ends early" if len(values) < count else "is longer than it announces"
        raise InputError(f"{file}: damaged: it {what}: get it anew")
    return np.frombuffer(values, dtype=np.uint8).reshape(shape)


def _shape(stream: gzip.GzipFile | IO[bytes], file: Path, dimensions: int) -> tuple[int, ...]:
    """Return the dimensions that the header announces."""
    header = stream.read(4 * (1 + dimensions))
    if len(header) < 4 or header[:4] != bytes([0, 0, UNSIGNED_BYTES, dimensions]):
        raise InputError(f"{file}: no idx file of unsigned bytes with {dimensions} dimensions")
    if len(header) < 4 * (1 + dimensions):
        raise InputError(f"{file}: damaged: it ends early: get it anew")
    shape = struct.unpack(f">{dimensions}I", header[4:])
    if 0 in shape:
        raise InputError(f"{file}: announces nothing: {' x '.join(map(str, shape))}")
    return shape


def _class_names(root: Path, count: int) -> list[str]:
    """Return the names of labels 0 to count - 1."""
    file = root / CLASSES
    if file.is_file():
        try:
            names = file.read_text("utf-8-sig").rstrip().split("\n")
        except UnicodeDecodeError as error:
            raise InputError(f"{file}: not UTF-8 (byte {error.start})") from None
        names = [name.strip() for name in names]
        for number, name in enumerate(names, start=1):
            if not name or name in names[: number - 1]:
                what = "the name of another class too" if name else "empty"
                raise InputError(f"{file}: line {number} is {what}: name each class, one a line")
        if len(names) < count:
            raise InputError(f"{file}: {len(names)} names, and labels go up to {count - 1}")
        return names
    if FASHION in root.name and count <= len(FASHION_CLASSES):
        return list(FASHION_CLASSES)
    return [str(label) for label in range(count)]
