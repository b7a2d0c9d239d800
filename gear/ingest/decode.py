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
from PIL import Image, ImageOps

from gear.data.captions import normalize_caption
from gear.data.shards import encode_png
from gear.ingest.records import EncodedSample, Picture, Reject

MAX_PIXELS = 64_000_000

WINDOW_BYTES = 256 << 20


def _decoded(
    given: Iterator[EncodedSample | Reject], size: int, workers: int
) -> Iterator[Picture | Reject]:
    """Decode in worker processes, in order; what waits in memory is bounded in number and bytes."""
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        while window := _window(given, 64 * workers):
            yield from pool.map(partial(_fit, size=size), window, chunksize=8)


def _window(given: Iterator[EncodedSample | Reject], most: int) -> list[EncodedSample | Reject]:
    window: list[EncodedSample | Reject] = []
    room = WINDOW_BYTES
    for one in given:
        window.append(one)
        room -= len(one.image) if isinstance(one, EncodedSample) else 0
        if len(window) == most or room <= 0:
            break
    return window


def _fit(one: EncodedSample | Reject, size: int) -> Picture | Reject:
    if isinstance(one, Reject):
        return one
    image = _square(io.BytesIO(one.image), size)
    return (
        Reject(one.key, image)
        if isinstance(image, str)
        else Picture(one.key, one.key, one.category, normalize_caption(one.caption), image)
    )


def _square(source: Path | io.BytesIO, size: int) -> bytes | str:
    """PNG bytes at training size, or why not."""
    try:
        return encode_png(read_square(source, size))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return " ".join(str(error).split()) or type(error).__name__


def _upright_opaque(opened: Image.Image) -> Image.Image:
    """RGB as it is meant to be seen: turned as its EXIF says, over white where it is transparent."""
    picture = ImageOps.exif_transpose(opened)
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return picture.convert("RGB")


def read_square(source: Path | io.BytesIO, size: int) -> np.ndarray:
    """Short side resized to `size` (bicubic, antialiased), centre crop; (size, size, 3) uint8. Raises on unreadable files."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        opened = Image.open(source)
    with opened:
        if opened.width * opened.height > MAX_PIXELS:
            raise ValueError(
                f"{opened.width}x{opened.height} is over {MAX_PIXELS // 1_000_000} megapixels"
            )
        picture = _upright_opaque(opened)
    scale = size / min(picture.size)
    wide = (max(size, round(picture.width * scale)), max(size, round(picture.height * scale)))
    picture = picture.resize(wide, Image.Resampling.BICUBIC)
    left, top = (wide[0] - size) // 2, (wide[1] - size) // 2
    return np.asarray(picture.crop((left, top, left + size, top + size)))
