"""Decode untrusted image files into squares of the training size."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from gear.data.captions import normalize_caption
from gear.ingest.records import EncodedSample, Picture, Reject

MAX_PIXELS = 64_000_000
WINDOW_BYTES = 256 << 20


def decode_samples(
    samples: Iterator[EncodedSample | Reject], size: int, workers: int
) -> Iterator[Picture | Reject]:
    """Decode samples in worker processes, in order.

    Samples that wait in memory are limited in number and bytes.
    """
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        while window := _window(samples, 64 * workers):
            yield from pool.map(partial(_decode_sample, size=size), window, chunksize=8)


def _window(samples: Iterator[EncodedSample | Reject], count: int) -> list[EncodedSample | Reject]:
    window: list[EncodedSample | Reject] = []
    room = WINDOW_BYTES
    for sample in samples:
        window.append(sample)
        if isinstance(sample, EncodedSample) and isinstance(sample.image, bytes):
            room -= len(sample.image)
        if len(window) == count or room <= 0:
            break
    return window


def _decode_sample(sample: EncodedSample | Reject, size: int) -> Picture | Reject:
    if isinstance(sample, Reject):
        return sample
    source = io.BytesIO(sample.image) if isinstance(sample.image, bytes) else sample.image
    try:
        pixels = read_square(source, size)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return Reject(sample.key, _reason(error))
    caption = normalize_caption(sample.caption)
    return Picture.of_pixels(pixels, sample.key, sample.key, sample.category, caption)


def _reason(error: Exception) -> str:
    """Return why an image cannot be read, without the names of files or objects."""
    if isinstance(error, UnidentifiedImageError):
        return "cannot identify image file"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


def read_square(source: Path | io.BytesIO, size: int) -> np.ndarray:
    """Return an image resized to `size` on the short side and cropped, (size, size, 3) uint8.

    Resizing is bicubic with antialiasing, the crop is central. EXIF rotation is applied, and
    transparent images are put on white.

    Raises:
        OSError, SyntaxError, ValueError, DecompressionBombError: if the file cannot be read.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        opened = Image.open(source)
    with opened:
        if opened.width * opened.height > MAX_PIXELS:
            megapixels = MAX_PIXELS // 1_000_000
            raise ValueError(f"{opened.width}x{opened.height} is over {megapixels} megapixels")
        picture = _upright_opaque(opened)
    scale = size / min(picture.size)
    width = max(size, round(picture.width * scale))
    height = max(size, round(picture.height * scale))
    picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    left = (width - size) // 2
    top = (height - size) // 2
    return np.asarray(picture.crop((left, top, left + size, top + size)))


def _upright_opaque(opened: Image.Image) -> Image.Image:
    picture = ImageOps.exif_transpose(opened)
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return picture.convert("RGB")
