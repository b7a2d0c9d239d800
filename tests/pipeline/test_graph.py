"""The whole graph by `dvc repro` on the tiny preset: twice from clean, the same dvc.lock; again, nothing to do."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.support.checkout import checkout, run


@pytest.mark.timeout(1500)
def test_two_clean_runs_give_the_same_lock_and_a_third_does_nothing(tmp_path: Path) -> None:
    first, second = checkout(tmp_path / "first"), checkout(tmp_path / "second")
    for folder in (first, second):
        run(folder, sys.executable, "-m", "dvc", "repro")
    assert (first / "dvc.lock").read_text() == (second / "dvc.lock").read_text()
    again = run(first, sys.executable, "-m", "dvc", "repro")
    assert "Running stage" not in again
    metrics = json.loads((first / "reports/metrics.json").read_text())
    assert metrics["fd"] > 0
    assert 0 <= metrics["coverage"] <= 1
    page = (first / "reports/index.html").read_text()
    assert "<img" in page
    assert "data:image/png;base64" in page
