"""Test how the conditions of samples are chosen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gear.core.files import write_json
from gear.generator.conditions import sampling_protocol, sampling_set
from gear.generator.config import SampleConfig
from gear.report.figures import grid_rows


@pytest.mark.parametrize("count", [4, 8, 19])
def test_samples_are_of_all_kinds_of_classes(tmp_path: Path, count: int) -> None:
    names = [f"class {number}" for number in range(8)]
    empty = {"train": 0, "val": 0, "size": 8}
    write_json(tmp_path / "manifest.json", {"classes": names, **empty})
    wanted = sampling_set(count, "class", tmp_path, tmp_path)
    counts = np.bincount(wanted.labels, minlength=8)
    assert wanted.labels.min() == 0
    assert wanted.labels.max() == 7
    assert counts.max() - counts.min() <= 1
    assert wanted.captions == [names[label] for label in wanted.labels]
    rule = sampling_protocol(wanted, SampleConfig(n=count), seed=0)["condition"]
    assert rule == (
        "balanced class: i mod classes" if count >= 8 else "4 evenly spaced classes of 8"
    )
    indices, rows, shown = grid_rows(wanted.labels, names, columns=2)
    assert [shown[row] for row in rows] == [names[label] for label in wanted.labels[indices]]
    assert set(shown) == {wanted.captions[index] for index in indices}, "no empty row"
