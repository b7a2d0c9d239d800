"""A folder `<root>/<class>/<file>` as a data source."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from gear.core.errors import InputError
from gear.ingest.records import EncodedSample, Reject


def image_folder(root: Path) -> Iterator[EncodedSample | Reject]:
    """Yield the images of `<root>/<class>/<file>` in the order of their names.

    Captions come from metadata.jsonl if there is one; others are the names of the classes.

    Raises:
        InputError: if there are no images, or a class folder is empty.
    """
    if not root.is_dir():
        raise InputError(f"data.root: {root} is not a folder: name one that holds <class>/<file>")
    files = sorted(
        path for path in root.glob("*/*") if path.is_file() and not path.name.startswith(".")
    )
    if not files:
        raise InputError(
            f"data.root: {root} holds no <class>/<file>: one folder per class, images inside"
        )
    filled = {file.parent for file in files}
    empty = sorted(p.name for p in root.iterdir() if p.is_dir() and p not in filled)
    if empty:
        raise InputError(
            f"data.root: class folder {root / empty[0]} is empty: remove it or fill it"
        )
    captions = _read_captions(root / "metadata.jsonl")
    for file in files:
        name = str(file.relative_to(root))
        category = file.parent.name
        if file.stat().st_size:
            caption = captions.get(name, category.replace("_", " "))
            yield EncodedSample(name, caption, category, file)
        else:
            yield Reject(name, "empty file")


def _read_captions(file: Path) -> dict[str, str]:
    """Return captions by file of a metadata.jsonl as in Hugging Face's image folders.

    A line is `{"file_name": ..., "text": ...}`.
    """
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
