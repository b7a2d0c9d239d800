"""DVC and gear commands as child processes of a flow: output logged, exit codes classified.

A flow never runs a stage in its own process: torch would stay in the scheduler's memory, and a
cancelled flow would leave a training behind.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from gear.core.files import exclusive_lock
from gear.paths import WORK
from gear.process import Ended, exit_with, run_child

QUIET = {"DVC_NO_ANALYTICS": "1", "DO_NOT_TRACK": "1"}


class StageError(RuntimeError):
    """A child failed. `retry`: whether another try can help."""

    retry = False


class StageBadInput(StageError):
    """Exit code 2: the user's mistake. The same again would fail again."""


class StageStopped(StageError):
    """Exit code 1: a stage stopped on purpose (collapsed codebook, failed gate)."""


class StageKilled(StageError):
    """Ended by a signal: somebody wanted it to end."""


class StageBusy(StageError):
    """Another DVC process works in the checkout, started by hand."""


class StageCrashed(StageError):
    """Anything else: out of memory, a lost disk, a bug. A retry may help, and training resumes."""

    retry = True


def run_command(
    command: list[str],
    folder: Path,
    show: Callable[[str], None],
    variables: dict[str, str] | None = None,
) -> None:
    """Run a command in `folder`, each line of its output to `show`; leave no process behind.

    Args:
        command: Program and arguments.
        folder: Working directory.
        show: Called with each line of output.
        variables: Environment variables beside this process's own.

    Raises:
        StageError: if the command fails; the class says how.
    """
    ended = run_child(command, folder, {**os.environ, **QUIET, **(variables or {})}, show)
    if ended.code:
        raise classify(ended)


def exit_with_worker() -> None:
    """Terminate a flow run, and its children, when the Prefect worker that started it exits.

    Prefect gives each run a session of its own, so a killed worker would leave the run going, and
    the next worker would start a second one beside it.
    """
    if "PREFECT__FLOW_RUN_ID" in os.environ:
        exit_with(os.getppid())


def classify(ended: Ended) -> StageError:
    """Return the error for a failed child: DVC names the exit code of a stage in its last lines."""
    busy = re.search(
        r"'([^']*)' is busy, it is being blocked by:\s*(\(PID \d+\): [^\n]*)", ended.tail
    )
    if busy:
        return StageBusy(
            f"{busy[1]} is in use by another DVC process {busy[2]}: wait for it, "
            "or give this run a name and so a folder of its own"
        )
    stage_codes = re.findall(r"exited with (-?\d+)", ended.tail)
    code = int(stage_codes[-1]) if stage_codes else ended.code
    if code < 0 or code in (130, 137, 143):
        return StageKilled(ended.reason)
    return {2: StageBadInput, 1: StageStopped}.get(code, StageCrashed)(ended.reason)


def checkout_lock(folder: Path) -> AbstractContextManager[None]:
    """Hold a checkout for one pipeline run.

    Raises:
        LockedError: if another run holds it; the lock of a dead process does not count.
    """
    return exclusive_lock(
        folder / WORK / "pipeline.lock",
        f"{folder}: {{holder}} works here: wait for it, "
        "or give this run a name and so a folder of its own",
    )
