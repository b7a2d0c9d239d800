"""Test that ending `dvc exp run` leaves the checkout as it was, whenever the signal comes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from gear.dvc_experiments import end_experiments
from gear.process import prepare_child
from tests.support.toys import toy

PARAMS = "n: 1\n"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = toy(tmp_path / "c", train="exec sleep 60 && echo $n > train.txt")
    (folder / "params.yaml").write_text(PARAMS)
    pipeline = (folder / "dvc.yaml").read_text()
    (folder / "dvc.yaml").write_text(pipeline + "    params: [n]\n")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "start")
    (folder / "notes.txt").write_text("an edit that is not committed")
    git(folder, "add", "notes.txt")
    return folder


def git(folder: Path, *words: str) -> str:
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@localhost", *words]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def start(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "dvc", "exp", "run", "--temp", "-S", "n=2"],
        cwd=folder,
        env={**os.environ, "DVC_NO_ANALYTICS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        preexec_fn=prepare_child,
    )


def content(folder: Path) -> str:
    """Return the content of params.yaml; empty while git replaces the file."""
    with suppress(FileNotFoundError):
        return (folder / "params.yaml").read_text()
    return ""


def wait_for_params(folder: Path, child: subprocess.Popen[str], *, changed: bool) -> None:
    """Wait until params.yaml of the checkout is changed, or is as it was."""
    deadline = time.monotonic() + 60
    while (content(folder) != PARAMS) != changed:
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.0005)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("moment", ["changed", "being restored"])
def test_a_signal_waits_until_dvc_has_restored_the_checkout(checkout: Path, moment: str) -> None:
    branch = git(checkout, "symbolic-ref", "HEAD")
    child = start(checkout)
    wait_for_params(checkout, child, changed=True)
    if moment == "being restored":
        wait_for_params(checkout, child, changed=False)
    end_experiments({child: 3.0}, checkout)
    assert child.returncode != 0
    assert (checkout / "params.yaml").read_text() == PARAMS
    assert git(checkout, "symbolic-ref", "HEAD") == branch
    assert git(checkout, "status", "--porcelain") == "A  notes.txt\n"
    assert git(checkout, "stash", "list") == ""
