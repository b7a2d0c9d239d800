"""`make setup` takes torch without CUDA where that is wanted, and goes on where it is not to be had."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.repo import REPO

INDEX = "--index-url https://download.pytorch.org/whl/cpu"
PYTHON = """#!/bin/bash
echo "$*" >> {log}
[[ "$*" == *find_spec* ]] && echo "{said}"
[[ "$*" != *--index-url* ]]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkout with a stub for Python: it notes its arguments, and the CPU index does not answer."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(REPO / name, tmp_path)
    stub = tmp_path / ".venv/bin/python"
    stub.parent.mkdir(parents=True)
    stub.write_text(PYTHON.format(log=tmp_path / "log", said="with CUDA"))
    stub.chmod(0o755)
    return tmp_path


def setup(folder: Path, *words: str, **variables: str) -> tuple[str, list[str]]:
    """Return what `make setup` prints, and how pip is called for torch."""
    command = ["make", "setup", f"PYTHON={folder / '.venv/bin/python'}", *words]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(
        command, cwd=folder, env=environment | variables, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    calls = (folder / "log").read_text().splitlines()
    return done.stdout, [call for call in calls if call.endswith("torch torchvision")]


def test_cpu_asks_the_index_without_cuda_first_and_goes_on_if_it_does_not_answer(
    folder: Path,
) -> None:
    said, calls = setup(folder, "CPU=1")
    assert [INDEX in call for call in calls] == [True, False]
    assert "--no-deps" in calls[0]
    assert all("-c constraints.txt" in call for call in calls)
    assert said.count("with CUDA") == 1
    assert [*folder.glob(".venv/.installed-*")]


def test_cuda_can_be_asked_for(folder: Path) -> None:
    said, calls = setup(folder, "CPU=0")
    assert [INDEX in call for call in calls] == [False]
    assert "with CUDA" not in said


def test_a_machine_with_nvidia_s_driver_gets_cuda(folder: Path) -> None:
    driver = folder / "driver/nvidia-smi"
    driver.parent.mkdir()
    driver.write_text("#!/bin/sh\n")
    driver.chmod(0o755)
    _, calls = setup(folder, PATH=f"{driver.parent}:{os.environ['PATH']}", CPU="x86_64")
    assert [INDEX in call for call in calls] == [False]


@pytest.mark.skipif(
    shutil.which("nvidia-smi") is not None or bool([*Path("/dev").glob("nvidia[0-9]*")]),
    reason="there is a GPU here",
)
def test_without_a_gpu_cpu_is_the_default(folder: Path) -> None:
    _, calls = setup(folder)
    assert [INDEX in call for call in calls] == [True, False]
