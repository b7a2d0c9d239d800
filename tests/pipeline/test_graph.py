"""Test the whole pipeline by `dvc repro` on the tiny preset."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.checkout import checkout, run


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a clean checkout in which every stage ran."""
    folder = checkout(tmp_path_factory.mktemp("graph") / "first")
    run(folder, sys.executable, "-m", "dvc", "repro")
    return folder


def test_a_second_run_does_nothing(first: Path) -> None:
    assert "Running stage" not in run(first, sys.executable, "-m", "dvc", "repro")


def test_the_results_are_there(first: Path) -> None:
    metrics = json.loads((first / "reports/metrics.json").read_text())
    assert metrics["fd"] > 0
    assert 0 <= metrics["coverage"] <= 1
    page = (first / "reports/index.html").read_text()
    assert "<img" in page
    assert "data:image/png;base64" in page
    provenance = json.loads((first / "reports/provenance.json").read_text())
    lock = yaml.safe_load((first / "dvc.lock").read_text())
    (page_md5,) = (
        out["md5"]
        for out in lock["stages"]["report"]["outs"]
        if out["path"] == "reports/index.html"
    )
    assert provenance["page_md5"] == page_md5


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_another_clean_run_gives_the_same_lock(first: Path, tmp_path: Path) -> None:
    second = checkout(tmp_path / "second")
    run(second, sys.executable, "-m", "dvc", "repro")
    assert (first / "dvc.lock").read_text() == (second / "dvc.lock").read_text()
