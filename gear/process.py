"""Run child processes in groups that end with their parent, even by SIGKILL. Imports no torch."""

from __future__ import annotations

import ctypes
import os
import queue
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

PR_SET_PDEATHSIG = 1
REPEAT = 1.0  # seconds within which another Ctrl-C is ignored: a launcher repeats the first one
GRACE = 12.0  # seconds, at least, for a training to save and exit before it is killed
TAIL = 30  # lines of output kept to explain a failure


@dataclass(frozen=True)
class Ended:
    """Exit code of a child and the last lines that it printed."""

    code: int  # negative: the signal that ended it
    tail: str

    @property
    def reason(self) -> str:
        """The last line that a gear command printed, else the last line, else the exit code."""
        lines = [line.strip() for line in reversed(self.tail.splitlines()) if line.strip()]
        by_gear = [line for line in lines if line.startswith("gear ")]
        return next(iter(by_gear or lines), f"exit code {self.code}")


def run_child(
    command: list[str],
    folder: Path,
    environment: dict[str, str],
    show: Callable[[str], None],
    end: Callable[[subprocess.Popen[str]], None] | None = None,
) -> Ended:
    """Run a command in a new session and process group, and terminate the whole group afterwards.

    The child gets SIGTERM if this process dies, even by SIGKILL.

    Args:
        command: Program and arguments.
        folder: Working directory.
        environment: All variables of the child.
        show: Called with each line of its output (stdout and stderr together).
        end: Ends the group; by default `end_group`.
    """
    child = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        preexec_fn=prepare_child,
    )
    tail: list[str] = []
    try:
        assert child.stdout is not None
        for line in _lines(child.stdout):
            show(line.rstrip())
            tail = [*tail[1 - TAIL :], line]
        child.wait()
    finally:
        (end or end_group)(child)
    return Ended(child.returncode, "".join(tail))


def _lines(stream: IO[str]) -> Iterator[str]:
    """Yield the lines of a pipe; signals are handled within a second while there are none.

    A signal that arrives just before a blocking read would be handled only after the next line.
    """
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        for line in stream:
            waiting.put(line)
        waiting.put("")

    threading.Thread(target=read, name="lines-of-child", daemon=True).start()
    while True:
        try:
            line = waiting.get(timeout=1.0)
        except queue.Empty:
            continue
        if not line:
            return
        yield line


def end_group(child: subprocess.Popen[str], grace: float = GRACE) -> None:
    """Send SIGTERM to the child's whole group, then after `grace` seconds SIGKILL to the rest."""
    for signal_number, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, 3.0)):
        if not _group_is_alive(child.pid):
            break
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal_number)
        deadline = time.monotonic() + patience
        while _group_is_alive(child.pid) and time.monotonic() < deadline:
            child.poll()
            time.sleep(0.1)
    child.wait()


def kill_children() -> None:
    """Send SIGKILL to the process groups of this process's children."""
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = _stat(entry)
            if int(fields[1]) == os.getpid() and int(fields[2]) != os.getpgrp():
                os.killpg(int(fields[2]), signal.SIGKILL)


def exit_with(process_id: int) -> None:
    """Terminate this process when another one exits, even by SIGKILL.

    Linux only; does nothing elsewhere, or if the other process is gone already.
    """
    if not hasattr(os, "pidfd_open"):
        return
    try:
        handle = os.pidfd_open(process_id)
    except OSError:  # gone already, or another user's
        return

    def wait() -> None:
        select.select([handle], [], [])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name=f"exit-with-{process_id}", daemon=True).start()


def exit_with_dvc() -> None:
    """Terminate this process when the DVC that runs it exits, so that no training is left behind.

    DVC is the nearest ancestor without the variable DVC_STAGE, which DVC sets for its stages. There
    may be a shell in between, so the parent-death signal is not enough. Linux only.
    """
    if "DVC_STAGE" not in os.environ:
        return
    ancestor = os.getppid()
    try:
        while ancestor != 1 and b"DVC_STAGE=" in Path(f"/proc/{ancestor}/environ").read_bytes():
            ancestor = int(_stat(Path(f"/proc/{ancestor}/stat"))[1])
    except OSError:  # gone already, or another user's
        return
    exit_with_ancestor(ancestor, "dvc")


def exit_with_ancestor(ancestor: int, program: str) -> None:
    """Terminate this process when the ancestor that started it exits, or if it has exited already.

    Args:
        ancestor: Its process id; 1 if it has exited, or if it is the first process of a container.
        program: Part of its command line, which tells these two apart.
    """
    with suppress(OSError):  # no /proc
        if ancestor == 1 and program.encode() not in Path("/proc/1/cmdline").read_bytes():
            os.kill(os.getpid(), signal.SIGTERM)  # process 1 adopted what the ancestor started
    exit_with(ancestor)


def started_at(process_id: int) -> str:
    """Return when a process started, in clock ticks since boot; empty if it is dead or a zombie."""
    try:
        fields = _stat(Path(f"/proc/{process_id}/stat"))
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def prepare_child() -> None:
    """Reset SIGINT, and request SIGTERM when the parent dies.

    Called in a child before it executes its program. A shell ignores SIGINT for what it starts
    with `&`.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _group_is_alive(group: int) -> bool:
    """Return whether a process of the group lives; zombies do not count."""
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = _stat(entry)
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            return True
    return False


def _stat(path: Path) -> list[str]:
    """Return the fields of /proc/<id>/stat from the state on: state, parent, group, ..."""
    return path.read_text().rsplit(")", 1)[1].split()
