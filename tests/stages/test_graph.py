"""The whole graph by `dvc repro` on the tiny preset: twice from clean, the same dvc.lock; again, nothing to do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
TRACKED = ("gear", "presets", "dvc.yaml", ".dvcignore", ".gitignore")


def checkout(folder: Path) -> Path:
    """A clean checkout of the working tree with its own DVC cache."""
    for name in TRACKED:
        source = REPO / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, folder / name)
    shutil.copy(REPO / "presets" / "tiny.yaml", folder / "params.yaml")
    run(folder, "git", "init", "-q")
    run(
        folder,
        "git",
        "-c",
        "user.name=t",
        "-c",
        "user.email=t@example.com",
        "commit",
        "-q",
        "--allow-empty",
        "-m",
        "start",
        date="2026-01-01T00:00:00Z",
    )
    run(folder, sys.executable, "-m", "dvc", "init", "-q")
    return folder


def run(folder: Path, *command: str, date: str = "") -> str:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1", "OMP_NUM_THREADS": "2"}
    if date:
        env |= {"GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, (
        f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    )
    return done.stdout


@pytest.mark.timeout(1500)
def test_two_clean_runs_give_the_same_lock_and_a_third_does_nothing(tmp_path: Path) -> None:
    first, second = checkout(tmp_path / "first"), checkout(tmp_path / "second")
    for folder in (first, second):
        run(folder, sys.executable, "-m", "dvc", "repro")
    assert (first / "dvc.lock").read_text() == (second / "dvc.lock").read_text()
    again = run(first, sys.executable, "-m", "dvc", "repro")
    assert "Running stage" not in again
    metrics = json.loads((first / "reports/metrics.json").read_text())
    assert metrics["fd"] > 0 and 0 <= metrics["coverage"] <= 1
    page = (first / "reports/index.html").read_text()
    assert "<img" in page and "data:image/png;base64" in page
