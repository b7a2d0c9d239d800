"""Test that the sample grid can have another guidance without changing the measured samples."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.commands import gear
from tests.support.settings import edit_params


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


@pytest.mark.slow
def test_the_grid_has_its_own_guidance_and_the_measured_samples_stay(
    prepared: Path, tmp_path: Path
) -> None:
    cwd = tmp_path / "run"
    shutil.copytree(prepared, cwd)
    shutil.copytree(cwd / "data/models/joint", cwd / "data/models/generator")
    samples, picture = cwd / "data/samples", cwd / "reports/samples.png"
    gear(cwd, "sample")
    measured, seen = contents(samples), picture.read_bytes()

    edit_params(cwd, sample={"grid_guidance": 40.0})
    gear(cwd, "sample")
    assert contents(samples) == measured
    guided = picture.read_bytes()
    assert guided != seen

    edit_params(cwd, sample={"guidance": 40.0, "grid_guidance": 0})
    gear(cwd, "sample")
    assert contents(samples) != measured
    assert picture.read_bytes() == guided, "the same images as if they were measured"
