"""Test the images of samples that are written at every measurement of FD."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gear.joint.quality_curve import write_samples
from gear.tokenizer.inference import decode_tokens
from tests.unit.report.test_page import tokenizer_of


def steps(folder: Path) -> list[int]:
    return sorted(int(file.stem) for file in folder.iterdir())


@pytest.mark.parametrize(
    ("count", "size"), [(40, (64, 16)), (16, (64, 16)), (11, (64, 8)), (3, (24, 8))]
)
def test_the_first_samples_are_in_two_rows(
    tmp_path: Path, count: int, size: tuple[int, int]
) -> None:
    tokenizer, tokens = tokenizer_of(8), np.arange(count * 4).reshape(count, 4) % 8
    write_samples(tmp_path / "joint-samples", 7, tokenizer, tokens)
    with Image.open(tmp_path / "joint-samples/7.png") as picture:
        assert picture.size == size
        pixels = np.asarray(picture)
    images = decode_tokens(tokenizer, tokens)
    assert np.array_equal(pixels[:8, :8], images[0])
    assert np.array_equal(pixels[:8, 16:24], images[2])
    if size[1] == 16:
        assert np.array_equal(pixels[8:, 8:16], images[9])


def test_pictures_of_a_run_before_are_deleted(tmp_path: Path) -> None:
    tokens = np.zeros((2, 4), np.int64)
    for step in (0, 50, 100, 150):
        write_samples(tmp_path, step, tokenizer_of(8), tokens)
    assert steps(tmp_path) == [0, 50, 100, 150]
    write_samples(tmp_path, 75, tokenizer_of(8), tokens)  # resumed from an earlier state
    assert steps(tmp_path) == [0, 50, 75]
    write_samples(tmp_path, 0, tokenizer_of(8), tokens)
    assert steps(tmp_path) == [0]


def test_a_picture_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    write_samples(tmp_path / "file", 0, tokenizer_of(8), np.zeros((1, 4), np.int64))
    assert (tmp_path / "file").read_text() == "in the way"
