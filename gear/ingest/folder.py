"""A folder `<root>/<class>/<file>` as a data source."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

from gear.core.errors import InputError
from gear.data.captions import normalize_caption
from gear.ingest.decode import _square
from gear.ingest.records import Picture, Reject


def image_folder(root: Path, size: int, workers: int) -> Iterator[Picture | Reject]:
    """Images of `<root>/<class>/<file>` in name order, decoded in `workers` processes with a bounded queue."""
    if not root.is_dir():
        raise InputError(f"data.root: {root} is not a folder: name one that holds <class>/<file>")
    files = sorted(
        path for path in root.glob("*/*") if path.is_file() and not path.name.startswith(".")
    )
    if not files:
        raise InputError(
            f"data.root: {root} holds no <class>/<file>: one folder a class, images inside"
        )
    filled = {file.parent for file in files}
    empty = sorted(p.name for p in root.iterdir() if p.is_dir() and p not in filled)
    if empty:
        raise InputError(
            f"data.root: class folder {root / empty[0]} is empty: remove it or fill it"
        )
    captions = _captions_beside(root)
    jobs = (
        (str(root), str(file.relative_to(root)), captions.get(str(file.relative_to(root))), size)
        for file in files
    )
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        while window := list(
            islice(jobs, 64 * workers)
        ):  # no more than this many results wait in memory
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
            raise InputError(
                f'{file} line {number}: not {{"file_name": ..., "text": ...}}'
            ) from None
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
    return Picture(
        name,
        name,
        category,
        normalize_caption(caption) if caption is not None else category.replace("_", " "),
        image,
    )
