"""Write the files of a state in a thread, while training goes on."""

from __future__ import annotations

import hashlib
import io
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gear.training.state_files import FileFacts, flush

CHUNK = 1 << 24  # bytes that are hashed and written at a time


@dataclass(frozen=True)
class Write:
    """A file that was written and flushed, and the seconds that it took."""

    facts: FileFacts
    seconds: float


class BackgroundWriter:
    """Writes files one after the other, from copies in CPU memory."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="state-writer")
        self._writes: dict[Path, Future[Write]] = {}

    def add(self, state_dict: Any, path: str | Path) -> None:
        """Copy a state dict to CPU memory and queue it for writing; it may change afterwards.

        The file is as `torch.save` writes it. Parameter names are those of DeepSpeed's checkpoint
        engines, whose `save` this replaces.
        """
        copy = io.BytesIO()
        torch.save(state_dict, copy)
        self._writes[Path(path)] = self._pool.submit(_write, copy, Path(path))

    def busy(self) -> bool:
        """Return whether a file is still being written."""
        return not all(write.done() for write in self._writes.values())

    def wait(self) -> dict[Path, Write]:
        """Wait until all files are on the disk. Returns those added since the last call.

        Raises:
            OSError: if a file could not be written.
        """
        writes, self._writes = self._writes, {}
        wait(writes.values())
        return {path: write.result() for path, write in writes.items()}


def _write(copy: io.BytesIO, path: Path) -> Write:
    began = time.monotonic()
    digest, content = hashlib.sha256(), copy.getbuffer()
    with path.open("wb") as file:
        for start in range(0, len(content), CHUNK):
            digest.update(content[start : start + CHUNK])
            file.write(content[start : start + CHUNK])
    flush(path)
    return Write(FileFacts(len(content), digest.hexdigest()), time.monotonic() - began)
