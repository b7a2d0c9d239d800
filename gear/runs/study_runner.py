"""Run the missing runs of a study as DVC experiments, several at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dvc.repo import Repo

from gear import paths
from gear.core import portable
from gear.core.errors import InputError
from gear.core.text import one_line
from gear.dvc_experiments import copied_images, end_experiments
from gear.params import load
from gear.process import Ended, end_group, prepare_child
from gear.runs.study_file import PlannedRun, Study
from gear.training.states import grace

POLL = 0.5  # seconds
TAIL = 4000  # last characters of a log, to find the reason of a failure in


@dataclass
class _Running:
    run: PlannedRun
    child: subprocess.Popen[str]
    log: Path
    started: float
    has_warm_up: bool = False


@dataclass(frozen=True)
class Outcome:
    """A run that ended. `reason` is empty if it finished."""

    run: PlannedRun
    seconds: float
    reason: str


def run_experiments(
    study: Study,
    runs: Sequence[PlannedRun],
    root: Path,
    *,
    jobs: int,
    started: Callable[[PlannedRun], None],
) -> Iterator[Outcome]:
    """Run experiments, `jobs` at a time, and yield each as it ends.

    CPU threads are divided among them. A run waits while another makes the warm-up that both share,
    and then takes it from DVC's run cache. Closing the iterator stops the running experiments;
    states of trainings are kept in the checkout, so that the next call resumes them.
    """
    waiting = list(runs)
    running: list[_Running] = []
    # runs read `host` of params.yaml, whatever preset the study has; it outweighs OMP_NUM_THREADS
    is_set = load(root / paths.PARAMS).host.threads > 0
    try:
        while waiting or running:
            for one in running:
                one.has_warm_up = one.has_warm_up or _is_past_warm_up(one.log)
            being_made = {one.run.shared for one in running if not one.has_warm_up}
            ready = [run for run in waiting if run.shared not in being_made]
            if ready and len(running) < jobs:
                run = ready[0]
                waiting.remove(run)
                started(run)
                running.append(_start(study, run, root, threads_of(run, jobs), is_set=is_set))
                continue
            time.sleep(POLL)
            for one in [one for one in running if one.child.poll() is not None]:
                running.remove(one)
                end_group(one.child)
                yield Outcome(one.run, time.monotonic() - one.started, _reason(one))
    finally:
        end_experiments(
            {one.child: grace(states_folder(study, one.run, root)) for one in running}, root
        )


def threads_of(run: PlannedRun, jobs: int) -> int:
    """Return the CPU threads of a run of which `jobs` run at a time."""
    return portable.THREADS if run.config.train.portable else thread_share(jobs)


def thread_share(jobs: int) -> int:
    """Return the share of the CPU threads that each of `jobs` runs has."""
    return max(1, len(os.sched_getaffinity(0)) // jobs)


def overrides(run: PlannedRun) -> list[str]:
    """Return `section.key=value` of every setting except `host`, for `dvc exp run -S`.

    These include settings that are equal in params.yaml, because another experiment that is being
    prepared at the same time may have changed that file.
    """
    wanted: dict[str, Any] = run.config.model_dump(mode="json")
    return [
        f"{section}.{key}={hydra_text(value)}"
        for section, values in wanted.items()
        for key, value in values.items()
        if section != "host"
    ]


def hydra_text(value: Any) -> str:
    """Return a value in Hydra's override grammar, which `dvc exp run -S` reads.

    Raises:
        InputError: if a text has a backslash, `${` or an unprintable character.

    >>> hydra_text({"path": "it's", "sizes": [1, 2.5], "on": True})
    "{path: 'it\\\\'s', sizes: [1, 2.5], on: true}"
    """
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {hydra_text(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(hydra_text, value)) + "]"
    if not isinstance(value, str):
        return json.dumps(value)
    if "\\" in value or "${" in value or not value.isprintable():
        raise InputError(
            f"{one_line(repr(value), 80)}: a study's settings have no backslash, no ${{ and no "
            "control character"
        )
    return "'" + value.replace("'", "\\'") + "'"


def _start(study: Study, run: PlannedRun, root: Path, threads: int, *, is_set: bool) -> _Running:
    log = root / log_of(study, run)
    log.parent.mkdir(parents=True, exist_ok=True)
    settings = overrides(run)
    if is_set and not run.config.train.portable:  # portable: always two threads
        settings.append(f"host.threads={threads}")
    words = [word for setting in settings for word in ("-S", setting)]
    copied = copied_images(root, run.config.data.root)
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "exp", "run", "--temp"]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "GEAR_STATES": str(states_folder(study, run, root)),
    }
    with log.open("w") as output:
        child = subprocess.Popen(
            [*command, "--name", run.experiment, *copied, *words],
            cwd=root,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=prepare_child,
        )
    return _Running(run, child, log, time.monotonic())


def log_of(study: Study, run: PlannedRun) -> Path:
    """Return the file that a run's output goes to, relative to the checkout."""
    return paths.LOGS / f"study-{study.name}" / f"{run.name}.log"


def states_folder(study: Study, run: PlannedRun, root: Path) -> Path:
    """Return the folder of a run's resumable states, separate from those of other runs."""
    return root / paths.WORK / f"study-{study.name}" / run.name


def _is_past_warm_up(log: Path) -> bool:
    """Return whether a run has finished its warm-up: DVC has logged the start of the next stage."""
    with suppress(OSError):
        return "Running stage 'joint'" in log.read_text(errors="replace")
    return False


def _reason(one: _Running) -> str:
    """Return why a run failed, and the path of its log; "" if it finished."""
    if one.child.returncode == 0:
        return ""
    ended = Ended(one.child.returncode, one.log.read_text(errors="replace")[-TAIL:])
    return f"{one_line(ended.reason, 300)} ({one.log.relative_to(one.log.parents[3])})"


def finished(run: PlannedRun, root: Path) -> bool:
    """Return whether DVC has the experiment of a run, even if a kill prevented its record.

    Raises:
        InputError: if it has several, on different commits.
    """
    with Repo(str(root)) as repo:
        named = repo.experiments.ls(all_commits=True).values()
        found = {commit for names in named for name, commit in names if name == run.experiment}
    if len(found) > 1:
        raise InputError(
            f"{len(found)} experiments are called {run.experiment}: `dvc exp remove` it"
        )
    return bool(found)
