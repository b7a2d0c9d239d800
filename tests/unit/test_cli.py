"""The command line: help that answers at once."""

from __future__ import annotations

import subprocess
import sys

from tests.support.repo import REPO


def test_help_imports_no_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "gear", "--help"],
        cwd=REPO,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    assert "codebook" in done.stdout
    assert not [
        line
        for line in done.stderr.splitlines()
        if line.split("|")[-1].strip() in ("torch", "pandas", "deepspeed")
    ]
