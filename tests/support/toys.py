"""Toy checkouts whose stages take no time."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path


def toy(folder: Path, **commands: str) -> Path:
    """A checkout of one stage a command, each after the one before; a stage that ends well writes its own name."""
    shutil.copytree(empty_checkout(), folder)
    lines, before = ["stages:"], ""
    for name, command in commands.items():
        last = (
            "" if command.startswith("exec ") else f" && echo {name} > {name}.txt"
        )  # exec: the command alone, as a gear stage is
        lines += [
            f"  {name}:",
            f"    cmd: {command.removeprefix('exec ')}{last}",
            f"    outs: [{name}.txt]",
        ]
        lines += [f"    deps: [{before}.txt]"] if before else []
        before = name
    (folder / "dvc.yaml").write_text("\n".join(lines) + "\n")
    return folder


def empty_checkout() -> Path:
    """Return a folder to copy, in which git and DVC are initialised; made once, as it takes seconds."""
    return Path(_initialised().name)


@cache
def _initialised() -> tempfile.TemporaryDirectory[str]:
    folder = tempfile.TemporaryDirectory(prefix="gear-empty-checkout-")
    env = {**os.environ, "DVC_NO_ANALYTICS": "1"}
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, cwd=folder.name, check=True, env=env)
    return folder


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
