"""Measure how many images a second one core reads from shards, and compare with what GPUs need.

    python benchmarks/loader.py [SIZE]

Reads random batches, as in training, of synthetic photographs of SIZE px (default 256), from shards
of each `data.encoding`, in one process with one decoding thread.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from gear.data import shards
from gear.data.shards import Row, Split, encode, image_row, write_shards

IMAGES, BATCH, ROUNDS = 2048, 64, 12


def photograph(random: np.random.Generator, size: int) -> np.ndarray:
    """Return an image (size, size, 3) uint8 that compresses about as photographs do."""
    picture = np.zeros((size, size, 3))
    for side in (4, 16, 64):
        coarse = Image.fromarray(random.integers(0, 256, (side, side, 3), dtype=np.uint8))
        picture += np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC)) / side**0.5
    picture *= 200 / picture.max()
    grain = random.normal(0, 4, picture.shape)
    return (picture + 28 + grain).clip(0, 255).astype(np.uint8)


def rows(encoding: str, size: int) -> Iterator[Row]:
    random = np.random.default_rng(0)
    for number in range(IMAGES):
        image = encode(photograph(random, size), encoding)
        yield image_row(f"image-{number}", image, (size, size), 0, "")


def rate(split: Split, seed: int) -> float:
    """Return images a second over one round of random batches."""
    random = np.random.default_rng(seed)
    began = time.perf_counter()
    for _ in range(4):
        split.images(random.integers(0, len(split), BATCH))
    return 4 * BATCH / (time.perf_counter() - began)


def main() -> None:
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 256
    shards.DECODERS = ThreadPoolExecutor(1)
    with tempfile.TemporaryDirectory() as scratch:
        splits, sizes = {}, {}
        for encoding in ("png", "jpeg"):
            folder = Path(scratch) / encoding
            write_shards(rows(encoding, size), folder)
            splits[encoding] = Split(folder, cache_bytes=0)
            sizes[encoding] = sum(f.stat().st_size for f in folder.glob("*")) / IMAGES / 1024
        rates: dict[str, list[float]] = {name: [] for name in splits}
        for number in range(ROUNDS):
            for name, split in splits.items():
                rates[name].append(rate(split, number))
    print(f"{size} px, random batches of {BATCH}, one core")
    for name, values in rates.items():
        median = statistics.median(values)
        print(f"  {name:5s} {median:7.0f} images/s a core, {sizes[name]:6.1f} KiB an image")


if __name__ == "__main__":
    main()
