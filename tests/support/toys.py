"""Make toy checkouts whose stages take no time."""

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
    """Make a checkout with one stage per command, each depending on the one before.

    A stage that succeeds writes its name to a file.
    """
    shutil.copytree(empty_checkout(), folder)
    lines, before = ["stages:"], ""
    for name, command in commands.items():
        # `exec` runs the command alone, like the stages of gear
        last = "" if command.startswith("exec ") else f" && echo {name} > {name}.txt"
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
    """Return a folder to copy, in which git and DVC are initialised.

    It is made only once, as that takes seconds.
    """
    return Path(_initialised().name)


@cache
def _initialised() -> tempfile.TemporaryDirectory[str]:
    folder = tempfile.TemporaryDirectory(prefix="gear-empty-checkout-")
    env = {**os.environ, "DVC_NO_ANALYTICS": "1"}
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, cwd=folder.name, check=True, env=env)
    return folder


def free_port() -> int:
    """Return a free port of the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
