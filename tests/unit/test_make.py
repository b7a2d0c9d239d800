"""Test that `make setup` can install torch without CUDA, and falls back if that fails."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.support.repo import REPO
from tests.support.toys import free_port

# logs its arguments and the extra index; only the check whether an index answers is real
PYTHON = """#!/bin/bash
[[ "$*" == *urllib* ]] && exec {real} "$@"
echo "$PIP_EXTRA_INDEX_URL $*" >> {log}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a checkout with a stub for Python."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(REPO / name, tmp_path)
    stub = tmp_path / ".venv/bin/python"
    stub.parent.mkdir(parents=True)
    stub.write_text(PYTHON.format(real=sys.executable, log=tmp_path / "log"))
    stub.chmod(0o755)
    return tmp_path


@pytest.fixture
def index(tmp_path: Path) -> Iterator[str]:
    """Yield the URL of a package index that has torch."""
    (tmp_path / "index/torch").mkdir(parents=True)
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "index"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def setup(folder: Path, *words: str, **variables: str) -> tuple[str, str]:
    """Return what `make setup` prints, and the extra index that torch comes from."""
    command = ["make", "setup", f"PYTHON={folder / '.venv/bin/python'}", *words]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    environment.pop("PIP_EXTRA_INDEX_URL", None)
    done = subprocess.run(
        command, cwd=folder, env=environment | variables, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert [*folder.glob(".venv/.installed-*")]
    calls = (folder / "log").read_text().splitlines()
    (of_torch,) = (call for call in calls if call.endswith("torch torchvision"))
    assert "-c constraints.txt" in of_torch
    others = [call for call in calls if call != of_torch]
    assert all(call.startswith(" ") for call in others), "the index is for torch alone"
    return done.stdout, of_torch.split(" ")[0]


def test_cpu_takes_the_index_without_cuda(folder: Path, index: str) -> None:
    assert setup(folder, "CPU=1", f"TORCH_INDEX={index}")[1] == index


def test_without_an_answer_torch_comes_with_cuda_and_one_line_says_so(folder: Path) -> None:
    lost = f"http://127.0.0.1:{free_port()}"
    said, used = setup(folder, "CPU=1", f"TORCH_INDEX={lost}")
    assert used == ""
    assert said.count(f"no answer from {lost}: torch with CUDA") == 1


def test_cuda_can_be_asked_for(folder: Path, index: str) -> None:
    assert setup(folder, "CPU=0", f"TORCH_INDEX={index}")[1] == ""


def test_a_machine_with_nvidia_s_driver_gets_cuda(folder: Path, index: str) -> None:
    driver = folder / "driver/nvidia-smi"
    driver.parent.mkdir()
    driver.write_text("#!/bin/sh\n")
    driver.chmod(0o755)
    path = f"{driver.parent}:{os.environ['PATH']}"
    assert setup(folder, f"TORCH_INDEX={index}", PATH=path, CPU="x86_64")[1] == ""
