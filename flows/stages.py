"""DVC as a killable child process: its own process group, its log streamed, its exit classified.

A flow never runs a stage in its own process: torch would stay in the scheduler's memory, and a cancelled flow would leave a
training behind. The child gets SIGTERM when the flow's process dies, however it dies (PR_SET_PDEATHSIG), and so does a
stage under DVC (gear/cli.py): no orphan trains on.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gear.core.errors import InputError
from gear.paths import WORK
from gear.process import end_with

PR_SET_PDEATHSIG = 1
GRACE = 12.0  # seconds for a training to save and exit before it is killed
QUIET = {"DVC_NO_ANALYTICS": "1", "DO_NOT_TRACK": "1"}


class StageError(RuntimeError):
    """A child that failed. `again`: whether trying once more can help."""

    again = False


class StageBadInput(StageError):
    """Exit code 2: the user's mistake. The same again would fail again."""


class StageStopped(StageError):
    """Exit code 1: a stage stopped on purpose (collapsed codebook, failed gate)."""


class StageKilled(StageError):
    """Ended by a signal: somebody wanted it to end."""


class StageBusy(StageError):
    """Another DVC process works in the checkout, started by hand."""


class StageCrashed(StageError):
    """Anything else: out of memory, a lost disk, a bug. One more try may help, and training resumes."""

    again = True


def run_child(
    command: list[str],
    folder: Path,
    show: Callable[[str], None],
    variables: dict[str, str] | None = None,
) -> None:
    """Run a command in `folder`, each line of its output to `show`; `variables` join its environment.

    Raises a `StageError`; leaves no process behind.
    """
    child = subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, **QUIET, **(variables or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        preexec_fn=_die_with_parent,
    )
    tail: list[str] = []
    try:
        assert child.stdout is not None
        for line in child.stdout:
            show(line.rstrip())
            tail = [*tail[-30:], line]
        child.wait()
    finally:
        end_group(child)
    if child.returncode:
        raise classify(child.returncode, "".join(tail))


def end_with_worker() -> None:
    """In a flow run that a Prefect worker started: end when that worker dies, even by SIGKILL, and the children with it.

    Prefect gives each run a session of its own, so a killed worker would leave the run going, and the next worker would start a
    second one beside it.
    """
    if "PREFECT__FLOW_RUN_ID" in os.environ:
        end_with(os.getppid())


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def end_group(child: subprocess.Popen[str]) -> None:
    """SIGTERM to the child's whole group, then SIGKILL to what is left of it."""
    for number, patience in ((signal.SIGTERM, GRACE), (signal.SIGKILL, 3.0)):
        if not _alive(child.pid):
            break
        os.killpg(child.pid, number)
        deadline = time.monotonic() + patience
        while _alive(child.pid) and time.monotonic() < deadline:
            child.poll()
            time.sleep(0.1)
    child.wait()


def _alive(group: int) -> bool:
    """Whether any process of the group lives (a zombie does not)."""
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            return True
    return False


def classify(code: int, tail: str) -> StageError:
    """The kind of a failure: DVC reports its own code, and the stage's in its last lines."""
    if busy := re.search(
        r"'([^']*)' is busy, it is being blocked by:\s*(\(PID \d+\): [^\n]*)", tail
    ):
        return StageBusy(
            f"{busy[1]} is in use by another DVC process {busy[2]}: wait for it, or give this run a name and so a folder of its own"
        )
    found = re.findall(r"exited with (-?\d+)", tail)
    stage = int(found[-1]) if found else code
    reason = next(
        (line.strip() for line in reversed(tail.splitlines()) if line.startswith("gear ")), ""
    )
    reason = reason or next(
        (line.strip() for line in reversed(tail.splitlines()) if line.strip()), f"exit code {code}"
    )
    kinds = {2: StageBadInput, 1: StageStopped}
    if stage < 0 or stage in (130, 137, 143):
        return StageKilled(reason)
    return kinds.get(stage, StageCrashed)(reason)


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold the checkout. Raises `InputError` while another pipeline run holds it; a dead holder holds nothing."""
    path = folder / WORK / "pipeline.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            holder = lock.read().strip() or "another pipeline run"
            raise InputError(
                f"{folder}: {holder} works here: wait for it, or give this run a name and so a folder of its own"
            ) from None
        lock.truncate(0)
        lock.write(f"process {os.getpid()}")
        lock.flush()
        yield
