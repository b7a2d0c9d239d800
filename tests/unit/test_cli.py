"""Test the command line: help without imports of torch, and the version."""

from __future__ import annotations

import subprocess
import sys
import tomllib

import pytest

from gear.cli import DISTRIBUTION, main, version
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


def test_help_of_a_command_imports_no_torch() -> None:
    code = (
        "import sys; from gear.cli import COMMANDS, parser\n"
        "for command in COMMANDS: parser(command)\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=REPO).returncode == 0


def test_version_is_that_of_the_distribution(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"gear {version()}\n"


def test_distribution_is_the_one_of_pyproject() -> None:
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    assert project["name"] == DISTRIBUTION
