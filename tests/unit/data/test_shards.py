"""The spool of images on their way into shards."""

from __future__ import annotations

from pathlib import Path

from gear.data.shards import GROUP, Spool


def test_the_spool_gives_back_what_it_was_given(tmp_path: Path) -> None:
    images = [bytes([n % 256]) * (n % 7) for n in range(2 * GROUP + 5)]
    with Spool(tmp_path / "spool.parquet") as spool:
        for image in images:
            spool.append(image)
    places = [0, 3, GROUP - 1, GROUP, 2 * GROUP + 4]
    assert list(spool.read(places)) == [images[p] for p in places]
