"""Run DVC and gear commands as child processes of a flow, and log their output.

A flow never runs a stage in its own process: torch would stay in the scheduler's memory, and a
cancelled flow would leave a training behind.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from flows.stage_errors import classify
from gear.core.files import exclusive_lock
from gear.dvc_experiments import end_experiments
from gear.paths import STATES, WORK
from gear.process import end_group, exit_with_ancestor, run_child
from gear.training.states import grace

MARGIN = 5.0  # seconds for a command to end after the training that it waits for
QUIET = {"DVC_NO_ANALYTICS": "1", "DO_NOT_TRACK": "1"}


def run_command(
    command: list[str],
    folder: Path,
    show: Callable[[str], None],
    variables: dict[str, str] | None = None,
    *,
    is_experiment: bool = False,
) -> None:
    """Run a command in `folder`; no child process is left behind.

    Args:
        command: Program and arguments.
        folder: Working directory.
        show: Called with each line of output.
        variables: Environment variables in addition to this process's own.
        is_experiment: The command is `dvc exp run`, which is interrupted so that the checkout stays
            as it was.

    Raises:
        StageError: if the command fails; the subclass tells how (`classify`).
    """
    environment = {**os.environ, **QUIET, **(variables or {})}

    def end(child: subprocess.Popen[str]) -> None:
        seconds = grace(folder / STATES) + MARGIN
        if is_experiment:
            end_experiments({child: seconds}, folder)
        else:
            end_group(child, seconds)

    ended = run_child(command, folder, environment, show, end)
    if ended.code:
        raise classify(ended)


def exit_with_worker() -> None:
    """Terminate a flow run, and its children, when the Prefect worker that started it exits.

    Prefect starts each run in its own session, so a run would outlive a killed worker, and the
    next worker would start a second one.
    """
    if "PREFECT__FLOW_RUN_ID" in os.environ:
        exit_with_ancestor(os.getppid(), "prefect")


def checkout_lock(folder: Path) -> AbstractContextManager[None]:
    """Lock a checkout for one pipeline run.

    Raises:
        LockedError: if another live process has locked it.
    """
    return exclusive_lock(
        folder / WORK / "pipeline.lock",
        f"{folder}: {{holder}} works here: wait for it, "
        "or give this run a name and so a folder of its own",
    )
