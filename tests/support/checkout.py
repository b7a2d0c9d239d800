"""Make clean checkouts of the working tree and run commands in them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.repo import REPO
from tests.support.settings import write_params

TRACKED = ("gear", "presets", "dvc.yaml", "pyproject.toml", ".dvcignore", ".gitignore")


def checkout(folder: Path) -> Path:
    """Make a clean checkout of the working tree with its own DVC cache."""
    for name in TRACKED:
        source = REPO / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, folder / name)
    write_params(folder)
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
