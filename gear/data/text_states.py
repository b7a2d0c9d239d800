"""Text states of captions: Parquet shards that are read on demand by the caption's sha256.

Text states are the last hidden states of a text encoder, one vector per token.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from threading import Lock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gear.core.errors import InputError
from gear.core.ranks import ALONE, Ranks

SCHEMA = pa.schema(
    [("caption_sha256", pa.string()), ("tokens", pa.int32()), ("states", pa.binary())]
)  # float16, row-major

GROUP = 64  # maximum number of captions of a row group
FILE = 4096  # captions of a file
GROUP_BYTES = 4 << 20  # approximate size of a row group, which a look-up reads whole
EMPTY = ""


def key_of(caption: str) -> str:
    """Return the sha256 of a caption's UTF-8."""
    return hashlib.sha256(caption.encode()).hexdigest()


def write_states(
    captions: Iterable[str],
    encode: Callable[[list[str]], list[np.ndarray]],
    folder: Path,
    ranks: Ranks = ALONE,
) -> int:
    """Write the states of distinct captions and of the empty caption; return their number.

    Rows are sorted by key, so the files do not depend on the order of the captions.

    Args:
        captions: The captions; duplicates are written once.
        encode: Function from captions to their states, (t, C) float16 each.
        folder: Folder of the shards.
        ranks: Share the work; rank zero writes.
    """
    distinct = sorted({EMPTY, *captions}, key=key_of)
    for start in range(0, len(distinct), FILE):
        part = distinct[start : start + FILE]
        groups = [part[first : first + GROUP] for first in range(0, len(part), GROUP)]
        encoded = zip(groups, ranks.map(encode, groups), strict=True)
        if not ranks.is_rank_zero:
            for _ in encoded:
                pass
            continue
        folder.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(
            folder / f"{start // FILE:05d}.parquet",
            SCHEMA,
            compression="none",
            use_dictionary=False,
        ) as writer:
            for group, states in encoded:
                rows = [
                    {"caption_sha256": key_of(c), "tokens": len(s), "states": s.tobytes()}
                    for c, s in zip(group, states, strict=True)
                ]
                size = max(
                    1, GROUP * GROUP_BYTES // max(GROUP_BYTES, sum(s.nbytes for s in states))
                )
                writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), row_group_size=size)
        print(f"text states {min(start + FILE, len(distinct))}/{len(distinct)}", flush=True)
    return len(distinct)


class TextStates:
    """Text states by caption, read on demand and cached up to `cache_bytes`.

    Raises:
        InputError: if the folder has no text states.
    """

    def __init__(self, folder: Path, cache_bytes: int = 2 << 30) -> None:
        try:
            self.width = int(json.loads((folder / "text.json").read_text())["width"])
        except (OSError, json.JSONDecodeError, KeyError):
            raise InputError(
                f"{folder}: no text states here: run `dvc repro features` "
                "with data.condition caption"
            ) from None
        # keys are in order over all files, so the last one of each row group says where a key is
        self._groups: list[tuple[pq.ParquetFile, int]] = []
        self._last_keys: list[str] = []
        for path in sorted(folder.glob("*.parquet")):
            file = pq.ParquetFile(path, memory_map=True)
            for group in range(file.num_row_groups):
                self._groups.append((file, group))
                column = file.metadata.row_group(group).column(0)
                self._last_keys.append(column.statistics.max)
        self._cache: OrderedDict[str, np.ndarray] = OrderedDict()
        self._room = cache_bytes
        self._lock = Lock()  # batches are read in a thread while samples are drawn in another

    def __getitem__(self, caption: str) -> np.ndarray:
        """Return states (t, C) float16. Raises `InputError` if the caption is unknown."""
        key = key_of(caption)
        with self._lock:
            if key not in self._cache:
                for file, group in self._groups_of(key):
                    self._read(file, group)
                if key not in self._cache:
                    raise _unknown(caption)
            self._cache.move_to_end(key)
            return self._cache[key]

    def length(self, caption: str) -> int:
        """Return the number of states of a caption, without reading or caching the states.

        Raises:
            InputError: if the caption is unknown.
        """
        key = key_of(caption)
        with self._lock:
            if key in self._cache:
                return len(self._cache[key])
            for file, group in self._groups_of(key):
                table = file.read_row_group(group, columns=["caption_sha256", "tokens"])
                lengths = dict(zip(*(column.to_pylist() for column in table.columns), strict=True))
                if key in lengths:
                    return int(lengths[key])
        raise _unknown(caption)

    def _groups_of(self, key: str) -> list[tuple[pq.ParquetFile, int]]:
        """Return the only row group that can hold a key, or none if all keys are smaller."""
        place = bisect_left(self._last_keys, key)
        return self._groups[place : place + 1]

    def _read(self, file: pq.ParquetFile, group: int) -> None:
        for row in file.read_row_group(group).to_pylist():
            states = np.frombuffer(row["states"], np.float16).reshape(row["tokens"], self.width)
            if row["caption_sha256"] not in self._cache:
                self._room -= states.nbytes
            self._cache[row["caption_sha256"]] = states
            self._cache.move_to_end(row["caption_sha256"])
        while self._room < 0 and len(self._cache) > GROUP:
            self._room += self._cache.popitem(last=False)[1].nbytes


def _unknown(caption: str) -> InputError:
    return InputError(f"no text states of {caption!r}: run `dvc repro features`")
