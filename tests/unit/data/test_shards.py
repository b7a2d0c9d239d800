"""Test that shards tell images apart, however many captions they have."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gear.data.shards import encode_png, image_row, read_split, write_shards


def test_rows_with_the_same_image_are_found_across_files(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    shown = [2, 0, 2, 1, 0, 2]
    rows = [
        image_row(f"{number}", encode_png(pixels[image]), (16, 16), 0, f"caption {number}")
        for number, image in enumerate(shown)
    ]
    write_shards(rows, tmp_path, rows_per_file=2)
    split = read_split(tmp_path)
    assert len(split.files) == 3
    assert split.first_rows().tolist() == [0, 1, 0, 3, 1, 0]
    assert split.distinct(9).indices.tolist() == [0, 1, 3]
    assert split.distinct(2).indices.tolist() == [0, 3]
    assert np.array_equal(split.distinct(9)[1:2][0], pixels[0])
