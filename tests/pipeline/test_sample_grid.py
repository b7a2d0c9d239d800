"""The grid of samples that people look at may have its own guidance; no metric is of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from tests.support.commands import gear
from tests.support.settings import edit_params


def labels(folder: Path) -> list[int]:
    (file,) = folder.glob("*.parquet")
    return pq.read_table(file)["label"].to_pylist()


def test_the_grid_has_its_own_guidance_and_the_measured_samples_stay(
    prepared: Path, tmp_path: Path
) -> None:
    cwd = tmp_path / "run"
    shutil.copytree(prepared, cwd)
    shutil.copytree(cwd / "data/models/joint", cwd / "data/models/generator")
    samples, picture = cwd / "data/samples", cwd / "reports/samples.png"
    gear(cwd, "sample")
    measured, seen = np.load(samples / "tokens.npy"), picture.read_bytes()
    protocol = (samples / "protocol.json").read_text()
    assert not (samples / "grid").exists()

    edit_params(cwd, sample={"grid_guidance": 40.0})
    gear(cwd, "sample")
    assert np.array_equal(np.load(samples / "tokens.npy"), measured)
    assert (samples / "protocol.json").read_text() == protocol
    assert picture.read_bytes() != seen
    assert labels(samples / "grid") == sorted(labels(samples))

    edit_params(cwd, sample={"guidance": 40.0, "grid_guidance": 0})
    guided = picture.read_bytes()
    gear(cwd, "sample")
    assert picture.read_bytes() == guided, "the same images as if they were measured"
