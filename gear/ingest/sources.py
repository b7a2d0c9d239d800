"""TODO."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gear.ingest.config import DataConfig
from gear.ingest.decode import _decoded
from gear.ingest.folder import image_folder
from gear.ingest.huggingface import huggingface
from gear.ingest.openmoji import openmoji
from gear.ingest.records import Picture, Reject
from gear.ingest.webdataset import webdataset


def pictures(data: DataConfig, workers: int) -> Iterator[Picture | Reject]:
    """What `data.source` holds. Raises `InputError` where there is nothing."""
    root = Path(data.root)
    if data.source == "openmoji":
        return openmoji(data.size)
    if data.source == "folder":
        return image_folder(root, data.size, workers)
    given = (
        webdataset(root, data.caption_key)
        if data.source == "webdataset"
        else huggingface(root, data.caption_key)
    )
    return _decoded(given, data.size, workers)
