"""Choose the data source that `data.source` names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gear.core.host_config import HostConfig
from gear.ingest.config import DataConfig
from gear.ingest.fan_out import decode_samples
from gear.ingest.folder import image_folder
from gear.ingest.huggingface import huggingface
from gear.ingest.idx import idx
from gear.ingest.openmoji import openmoji
from gear.ingest.records import Picture, Reject
from gear.ingest.webdataset import webdataset


def read_pictures(data: DataConfig, host: HostConfig) -> Iterator[Picture | Reject]:
    """Yield the pictures of the configured source at training size, and rejects.

    Raises:
        InputError: if there is nothing to read.
    """
    root = Path(data.root)
    if data.source == "openmoji":
        return openmoji(data.size, data.encoding)
    if data.source == "folder":
        samples = image_folder(root, follow_links=data.follow_links)
    elif data.source == "webdataset":
        samples = webdataset(root, data.caption_key, data.max_reject_share)
    elif data.source == "idx":
        samples = idx(root, data.size)
    else:
        samples = huggingface(root, data.caption_key)
    return decode_samples(samples, data.size, data.encoding, host)
