"""Run gear commands of this checkout in another folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.repo import REPO

PATHS = os.pathsep.join(filter(None, [str(REPO), os.environ.get("PYTHONPATH")]))
ENV = {**os.environ, "PYTHONPATH": PATHS, "OMP_NUM_THREADS": "1"}


def run_gear(cwd: Path, *words: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run `gear WORDS` in a folder, whatever its exit code."""
    return subprocess.run(
        [sys.executable, "-m", "gear", *words],
        cwd=cwd,
        env=ENV,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def gear(cwd: Path, *words: str) -> str:
    """Run `gear WORDS` in a folder, which must succeed; return its output."""
    done = run_gear(cwd, *words)
    assert done.returncode == 0, f"{words}: {done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def start_joint(cwd: Path) -> subprocess.Popen[str]:
    """Start `gear joint` in a folder, with stdout and stderr in one pipe."""
    command = [sys.executable, "-m", "gear", "joint"]
    return subprocess.Popen(
        command, cwd=cwd, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
