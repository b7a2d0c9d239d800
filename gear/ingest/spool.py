"""Temporary file of pictures between reading a source and writing shards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gear.ingest.records import Picture

BATCH = 64  # pictures written or read at a time
SCHEMA = pa.schema(
    [
        ("image", pa.binary()),
        ("key", pa.string()),
        ("concept", pa.string()),
        ("caption", pa.string()),
    ]
)


class Spool:
    """Images, names and captions on disk, so that they need not fit in memory.

    The file is written once from start to end, closed, and then read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._waiting: list[Picture] = []
        self._file = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_file(self._file, SCHEMA)

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        self._writer.close()
        self._file.close()

    def append(self, picture: Picture) -> None:
        """Add a picture at the end."""
        self._waiting.append(picture)
        if len(self._waiting) == BATCH:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            columns = [[getattr(picture, n) for picture in self._waiting] for n in SCHEMA.names]
            arrays = [pa.array(c, field.type) for c, field in zip(columns, SCHEMA, strict=True)]
            self._writer.write_batch(pa.record_batch(arrays, schema=SCHEMA))
            self._waiting.clear()

    def read(self, places: np.ndarray, *columns: str) -> Iterator[tuple[Any, ...]]:
        """Yield columns of the pictures at ascending positions, after the spool is closed.

        places: Positions, (n,) int64; 0 is the picture that was appended first.
        """
        fields = pa.ipc.IpcReadOptions(included_fields=[SCHEMA.names.index(n) for n in columns])
        with pa.OSFile(str(self.path)) as file:
            reader = pa.ipc.open_file(file, options=fields)
            bounds = np.flatnonzero(np.diff(places // BATCH)) + 1
            for part in np.split(places, bounds) if len(places) else ():
                batch = reader.get_batch(int(part[0]) // BATCH).take(pa.array(part % BATCH))
                yield from zip(*(batch[name].to_pylist() for name in columns), strict=True)
