"""Hash of what determines a training."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

WHOLE, BLOCKS, BLOCK = (
    64 << 20,
    17,
    1 << 20,
)  # bytes of a file that is hashed whole; blocks of a larger one


def fingerprint(params: dict[str, Any], files: list[Path]) -> str:
    """Hash of a stage's params and inputs (files, or folders of files): equal runs share a work folder."""
    digest = hashlib.sha256(json.dumps(params, sort_keys=True).encode())
    for path in files:
        inner = (
            sorted(p for p in path.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
            if path.is_dir()
            else [path]
        )
        for file in inner:
            digest.update(str(file).encode())
            digest.update(_content(file))
    return digest.hexdigest()[:16]


def _content(file: Path) -> bytes:
    """sha256 of a file; of a large one, its size and evenly spaced blocks, since terabytes are not read to name a folder.

    A Parquet file's last block is its footer, with the smallest and largest sha256 of every row group's images.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        if size <= WHOLE:
            return hashlib.file_digest(stream, "sha256").digest()
        digest = hashlib.sha256(str(size).encode())
        for number in range(BLOCKS):
            stream.seek((size - BLOCK) * number // (BLOCKS - 1))
            digest.update(stream.read(BLOCK))
        return digest.digest()
