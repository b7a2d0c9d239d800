"""Parquet shards of encoded images: the schema, writing, and memory-mapped reading by row."""

from __future__ import annotations

import errno
import hashlib
import io
import os
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import simplejpeg
from PIL import Image

from gear.core.errors import InputError
from gear.core.files import read_object
from gear.data.row_selection import evenly_spaced
from gear.data.text_column import TextColumn

SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("image", pa.binary()),  # encoded, at training size
        ("label", pa.int32()),
        ("caption", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("sha256", pa.string()),  # of `image`
    ]
)
FORMATS = ("PNG",)  # of images in shards that are not JPEG
JPEG_START = b"\xff\xd8"
JPEG_QUALITY = 95
GROUP = 64  # rows of a row group
VALIDATION_IMAGES = 1024  # maximum number of images for a training's validation curve
# threads, since Pillow releases the GIL while it decodes
DECODERS = ThreadPoolExecutor(min(8, os.cpu_count() or 1), thread_name_prefix="decode")
Row = dict[str, Any]


def write_shards(rows: Iterable[Row], folder: Path, rows_per_file: int = 512) -> int:
    """Write rows to `00000.parquet`, ..., uncompressed in 64-row groups; return the row count.

    The same rows give the same bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    iterator = iter(rows)
    written = 0
    for number, chunk in enumerate(_chunks(iterator, rows_per_file)):
        table = pa.Table.from_pylist(chunk, schema=SCHEMA)
        pq.write_table(
            table,
            folder / f"{number:05d}.parquet",
            compression="none",
            row_group_size=GROUP,
            use_dictionary=False,
        )
        written += len(chunk)
    return written


def image_row(key: str, image: bytes, size: tuple[int, int], label: int, caption: str) -> Row:
    """Return the shard row of an encoded image; `size` is its width and height in pixels."""
    return {
        "key": key,
        "image": image,
        "label": label,
        "caption": caption,
        "width": size[0],
        "height": size[1],
        "sha256": hashlib.sha256(image).hexdigest(),
    }


def write_samples(
    images: Iterable[np.ndarray], labels: np.ndarray, captions: list[str], folder: Path
) -> None:
    """Write sampled images, (H, W, 3) uint8 each, as shards; their keys are sample-000000, ..."""
    write_shards(
        (
            image_row(
                f"sample-{number:06d}",
                encode_png(image),
                (image.shape[1], image.shape[0]),
                int(labels[number]),
                captions[number],
            )
            for number, image in enumerate(images)
        ),
        folder,
    )


def _chunks(rows: Iterator[Row], size: int) -> Iterator[list[Row]]:
    while chunk := list(islice(rows, size)):
        yield chunk


def encode_png(pixels: np.ndarray) -> bytes:
    """Return pixels (H, W, 3) uint8 as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def encode(pixels: np.ndarray, encoding: str) -> bytes:
    """Return pixels (H, W, 3) uint8 as "png" or "jpeg" of quality 95, colours not subsampled."""
    if encoding == "png":
        return encode_png(pixels)
    result: bytes = simplejpeg.encode_jpeg(
        np.ascontiguousarray(pixels), quality=JPEG_QUALITY, colorsubsampling="444", fastdct=False
    )
    return result


def decode(image: bytes) -> np.ndarray:
    """Return the pixels (H, W, 3) uint8 of an encoded image."""
    if image[:2] == JPEG_START:
        pixels: np.ndarray = simplejpeg.decode_jpeg(image, fastdct=False, fastupsample=False)
        return pixels
    with Image.open(io.BytesIO(image), formats=FORMATS) as opened:
        return np.asarray(opened.convert("RGB"))


def load_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a shards folder. Raises `InputError` if it is absent or damaged."""
    return read_object(folder / "manifest.json", train=int, val=int, size=int, classes=list)


class Split:
    """A split of shards; images are decoded on demand and cached up to `cache_bytes`.

    Raises:
        InputError: if the folder has no shards, or one is damaged.
    """

    def __init__(self, folder: Path, cache_bytes: int = 2 << 30) -> None:
        self.files = [open_shard(path) for path in sorted(folder.glob("*.parquet"))]
        if not self.files:
            raise InputError(f"{folder}: no Parquet shards here: run `dvc repro ingest`")
        columns = ["key", "label", "caption"]
        table = pa.concat_tables([file.read(columns=columns) for file in self.files])
        self.keys = TextColumn(table["key"])
        self.captions = TextColumn(table["caption"])
        self.labels = table["label"].to_numpy().astype(np.int64)
        self._groups = [
            (file, group) for file in self.files for group in range(file.num_row_groups)
        ]
        sizes = [file.metadata.row_group(group).num_rows for file, group in self._groups]
        self._starts = np.concatenate([[0], np.cumsum(sizes)])
        self._cache: OrderedDict[int, np.ndarray] = OrderedDict()  # by row
        self._room, self._lock = cache_bytes, Lock()

    def __len__(self) -> int:
        return len(self.keys)

    def rows_sha256(self) -> str:
        """Return the sha256 (hex) over the keys and image hashes of all rows, in order."""
        digest = hashlib.sha256()
        for file in self.files:
            rows = file.read(columns=["key", "sha256"])
            for key, sha256 in zip(rows["key"], rows["sha256"], strict=True):
                digest.update(f"{key}\t{sha256}\n".encode())
        return digest.hexdigest()

    def first_rows(self) -> np.ndarray:
        """Return for each row the first row with the same image, (N,) int64.

        An image with several captions has a row for each. `np.unique` of the result, or of a part
        of it, has one row for each distinct image.
        """
        hashes = [chunk for file in self.files for chunk in file.read(["sha256"])[0].chunks]
        column = pa.chunked_array(hashes).cast(pa.large_string()).combine_chunks()
        images = column.dictionary_encode().indices.to_numpy()
        _, first, place = np.unique(images, return_index=True, return_inverse=True)
        result: np.ndarray = first[place]
        return result

    def images(self, indices: np.ndarray) -> np.ndarray:
        """Return the pixels of rows `indices`, (n, H, W, 3) uint8, as a new array."""
        with self._lock:  # a batch may be prefetched by another thread
            absent = sorted({int(i) for i in indices} - self._cache.keys())
            encoded = self._encoded(absent)
        decoded = dict(zip(absent, DECODERS.map(decode, encoded), strict=True))
        with self._lock:
            for row, pixels in decoded.items():
                self._room -= 0 if row in self._cache else pixels.nbytes
                self._cache[row] = pixels
            chosen = np.stack(
                [decoded[int(i)] if int(i) in decoded else self._cache[int(i)] for i in indices]
            )
            while self._room < 0 and self._cache:
                self._room += self._cache.popitem(last=False)[1].nbytes
        return chosen

    def __getitem__(self, part: slice) -> np.ndarray:
        """Return the pixels of a slice of rows, like the slice of an array."""
        return self.images(np.arange(*part.indices(len(self))))

    def part(self, indices: np.ndarray) -> Subset:
        """Return the rows `indices`, read on demand."""
        return Subset(self, indices)

    def subset(self, count: int) -> Subset:
        """Return all rows, or `count` evenly spaced ones if there are more; read on demand."""
        return Subset(self, evenly_spaced(len(self), count))

    def distinct(self, count: int) -> Subset:
        """Return all distinct images, or `count` evenly spaced ones; read on demand."""
        rows = np.unique(self.first_rows())
        return Subset(self, rows[evenly_spaced(len(rows), count)])

    def _encoded(self, rows: list[int]) -> list[bytes]:
        """Return the encoded images of ascending rows; each row group is read once."""
        found: list[bytes] = []
        groups = np.searchsorted(self._starts, rows, side="right") - 1
        last, column = -1, None
        for row, group in zip(rows, groups, strict=True):
            if group != last:
                file, number = self._groups[group]
                last, column = group, file.read_row_group(number, columns=["image"])["image"]
            assert column is not None
            found.append(column[int(row - self._starts[group])].as_py())
        return found


def open_shard(path: Path) -> pq.ParquetFile:
    """Return a shard, memory-mapped.

    Raises:
        InputError: if the file is not Parquet, or lacks a column of the schema.
    """
    try:
        file = pq.ParquetFile(path, memory_map=True)
    except (OSError, pa.ArrowException) as error:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            raise InputError(f"{path}: too many open files: raise `ulimit -n`") from None
        raise InputError(
            f"{path}: not a readable Parquet file ({error}): delete it and run `dvc repro ingest`"
        ) from None
    if missing := set(SCHEMA.names) - set(file.schema_arrow.names):
        raise InputError(
            f"{path}: no column {min(missing)!r}: a shard has {', '.join(SCHEMA.names)}"
        )
    return file


@dataclass(frozen=True)
class Subset:
    """Rows `indices` of a split, read on demand."""

    split: Split
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, part: slice) -> np.ndarray:
        return self.split.images(self.indices[part])


def read_split(folder: Path) -> Split:
    """Return the split in a folder of shards. Raises `InputError` if there are none."""
    return Split(folder)
