"""A Hugging Face dataset on disk as a data source."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gear.core.errors import InputError
from gear.ingest.records import ONE_CLASS, EncodedSample, Reject, class_as_caption


def huggingface(root: Path, caption_key: str) -> Iterator[EncodedSample | Reject]:
    """Yield the rows of a dataset saved by `save_to_disk`, and rejects.

    It has an `image` column, and a caption column named `caption_key` or a `label` column, or both.
    If no column holds text, the caption of an image is the name of its class.

    Raises:
        InputError: if there is no dataset, or a column is absent.
    """
    import datasets

    try:
        table = datasets.load_from_disk(str(root))
    except Exception as error:  # damaged files raise errors of many types
        raise InputError(
            f"data.root: {root}: no dataset of `save_to_disk` here "
            f"({' '.join(str(error).split())[:200]})"
        ) from None
    if isinstance(table, datasets.DatasetDict):
        raise InputError(
            f"data.root: {root} holds the splits {', '.join(table)}: name the folder of one"
        )
    columns = table.column_names
    has_text = any(getattr(kind, "dtype", "") == "string" for kind in table.features.values())
    has_captions = caption_key in columns or has_text or "label" not in columns
    for column in ("image", caption_key) if has_captions else ("image",):
        if column not in columns:
            raise InputError(
                f"data.root: {root} has no column {column!r}, it has {', '.join(columns)}: see "
                "data.caption_key"
            )
    names = getattr(table.features.get("label"), "names", None)
    try:
        raw = table.cast_column("image", datasets.Image(decode=False))
    except Exception as error:
        raise InputError(
            f"data.root: {root}: its column 'image' holds no images "
            f"({' '.join(str(error).split())[:200]})"
        ) from None
    for number in range(len(raw)):
        key = f"row-{number:08d}"
        try:
            row = raw[number]
            category = _category(row.get("label"), names)
        except Exception as error:
            yield Reject(key, f"cannot be read: {error}")
            continue
        caption = row[caption_key] if has_captions else class_as_caption(category)
        if isinstance(caption, list):
            caption = caption[0] if caption else None
        image = (row["image"] or {}).get("bytes") or b""
        if not isinstance(caption, str) or not caption.strip() or not image:
            yield Reject(key, "no image bytes" if not image else "no caption")
            continue
        yield EncodedSample(key, caption, category, image)


def _category(label: Any, names: list[str] | None) -> str:
    """Return the class of a label; `names` are those of a ClassLabel, where -1 is unlabelled."""
    if label is None or (names and label == -1):
        return ONE_CLASS
    return names[label] if names else str(label)
