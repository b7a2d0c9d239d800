"""Whether git has a checkout's history, without which DVC keeps no experiment. Imports no torch."""

from __future__ import annotations

import subprocess
from pathlib import Path

from gear.core.errors import InputError


def is_shallow_clone(root: Path) -> bool:
    """Return whether a checkout was cloned with `--depth`."""
    command = ["git", "rev-parse", "--is-shallow-repository"]
    answer = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False).stdout
    return answer.strip() == "true"


def refuse_shallow_clone(root: Path) -> None:
    """Refuse a clone made with `--depth`: DVC runs an experiment there, and then it is lost.

    Raises:
        InputError: if it is such a clone.
    """
    if is_shallow_clone(root):
        raise InputError(
            f"{root}: in a shallow clone DVC keeps no experiment: run `git fetch --unshallow`"
        )
