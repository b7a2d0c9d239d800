"""Find running processes in /proc."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def is_alive(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def _others() -> Iterator[int]:
    for entry in Path("/proc").glob("[0-9]*"):
        if int(entry.name) != os.getpid():
            yield int(entry.name)


def processes(*words: str) -> list[int]:
    """Return the other running processes whose command line contains all the words."""
    found = []
    for pid in _others():
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if all(word in line for word in words) and is_alive(pid):
            found.append(pid)
    return found


def runs_in(folder: Path) -> list[int]:
    """Return the other running processes whose working directory is in a folder."""
    found = []
    for pid in _others():
        try:
            place = Path(os.readlink(f"/proc/{pid}/cwd"))
        except OSError:
            continue
        if place.is_relative_to(folder) and is_alive(pid):
            found.append(pid)
    return found
