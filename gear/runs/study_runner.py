"""Run what a study still lacks as DVC experiments, several at a time."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from gear import paths
from gear.core.errors import InputError
from gear.core.text import one_line
from gear.core.yaml_text import read_yaml
from gear.process import end_group, terminate_with_parent
from gear.runs.revision import find_revision
from gear.runs.study_file import PlannedRun, Study

POLL = 0.5  # seconds
TAIL = 4000  # bytes of a log that may hold the reason of a failure


@dataclass
class _Running:
    run: PlannedRun
    child: subprocess.Popen[str]
    log: Path
    started: float


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
    and then takes it from DVC's run cache. Closing the iterator ends what is running; states of
    trainings lie in the checkout, so that the next call resumes them.
    """
    waiting = list(runs)
    running: list[_Running] = []
    threads = max(1, len(os.sched_getaffinity(0)) // jobs)
    try:
        while waiting or running:
            being_made = {one.run.shared for one in running} - {
                one.run.shared for one in running if _has_warm_up(one)
            }
            ready = [run for run in waiting if run.shared not in being_made]
            if ready and len(running) < jobs:
                run = ready[0]
                waiting.remove(run)
                started(run)
                running.append(_start(study, run, root, threads))
                continue
            time.sleep(POLL)
            for one in [one for one in running if one.child.poll() is not None]:
                running.remove(one)
                end_group(one.child)
                yield Outcome(one.run, time.monotonic() - one.started, _reason(one))
    finally:
        for one in running:
            end_group(one.child)


def overrides(run: PlannedRun, root: Path) -> list[str]:
    """Return `section.key=value` of each setting in which a run differs from params.yaml."""
    current = read_yaml(root / paths.PARAMS, "write it with `gear preset quickstart`")
    wanted: dict[str, Any] = run.config.model_dump(mode="json")
    return [
        f"{section}.{key}={_flow(value)}"
        for section, values in wanted.items()
        for key, value in values.items()
        if section != "host" and (current.get(section) or {}).get(key) != value
    ]


def _flow(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


def _start(study: Study, run: PlannedRun, root: Path, threads: int) -> _Running:
    log = root / paths.LOGS / f"study-{study.name}" / f"{run.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    settings = [word for override in overrides(run, root) for word in ("-S", override)]
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "exp", "run", "--temp"]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "GEAR_STATES": str(root / paths.WORK),
    }
    with log.open("w") as output:
        child = subprocess.Popen(
            [*command, "--name", run.experiment, *settings],
            cwd=root,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=terminate_with_parent,
        )
    return _Running(run, child, log, time.monotonic())


def _has_warm_up(one: _Running) -> bool:
    """Return whether a run has come past its warm-up, by DVC's line for the stage after it."""
    with suppress(OSError):
        return "Running stage 'joint'" in one.log.read_text(errors="replace")
    return False


def _reason(one: _Running) -> str:
    """Return why a run failed: the last line of a gear command, else the last line."""
    if one.child.returncode == 0:
        return ""
    text = one.log.read_text(errors="replace")[-TAIL:]
    lines = [line.strip() for line in reversed(text.splitlines()) if line.strip()]
    by_gear = [line for line in lines if line.startswith("gear ")]
    reason = next(iter(by_gear or lines), f"exit code {one.child.returncode}")
    return f"{one_line(reason, 300)} ({one.log.relative_to(one.log.parents[3])})"


def finished(run: PlannedRun, root: Path) -> bool:
    """Return whether DVC has an experiment of a run, as after a kill before its record."""
    try:
        find_revision(run.experiment, root)
    except InputError:
        return False
    return True
