"""Test the spool, which keeps images on disk until they are written to shards."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gear.ingest.records import Picture
from gear.ingest.spool import BATCH, Spool


def test_the_spool_gives_back_the_columns_of_the_places_asked_for(tmp_path: Path) -> None:
    small = np.zeros((8, 8, 3), np.uint8)
    pictures = [
        Picture(f"key {n}", f"concept {n % 5}", "x", "é" * (n % 3), bytes([n % 256]) * n, small)
        for n in range(2 * BATCH + 5)
    ]
    with Spool(tmp_path / "spool.arrow") as spool:
        for picture in pictures:
            spool.append(picture)
    places = np.array([0, 3, BATCH - 1, BATCH, 2 * BATCH + 4])
    asked = [pictures[place] for place in places]
    assert list(spool.read(places, "key", "image")) == [(p.key, p.image) for p in asked]
    assert list(spool.read(places, "caption", "concept")) == [(p.caption, p.concept) for p in asked]
    assert list(spool.read(np.zeros(0, np.int64), "key")) == []
