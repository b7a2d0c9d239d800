"""Record what stages cost on this machine (seconds, memory, hardware) in .gear/costs.

A record is named by a hash of what dvc.lock holds of the stage besides outputs: command, params and
hashes of inputs. No outputs are read.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dvc.dependency import ParamsDependency
from dvc.exceptions import DvcException
from dvc.repo import Repo

from gear import paths
from gear.core.errors import InputError
from gear.core.files import replace_file, write_json
from gear.core.hardware import hardware_class
from gear.runs.revision import WORKSPACE, Locked, Revision


@contextmanager
def recorded(stage: str) -> Iterator[None]:
    """Record the cost of the `with` block as the cost of a stage."""
    started = time.monotonic()
    try:
        yield
    except SystemExit:  # stopped by a signal with its state saved: the next run resumes
        if stage in paths.TRAININGS:
            keep(stage, time.monotonic() - started, finished=False)
        raise
    keep(stage, time.monotonic() - started, finished=True)


def record_path(root: Path, stage: Locked) -> Path:
    """Return the file that holds a stage's record."""
    inputs = json.dumps([stage.cmd, stage.params, stage.deps], sort_keys=True)
    name = hashlib.sha256(inputs.encode()).hexdigest()[:24]
    return root / paths.COSTS / f"{stage.name}-{name}.json"


def find(root: Path, stage: Locked) -> dict[str, Any] | None:
    """Return the record of a stage; None if there is none.

    It holds `seconds`, `hardware`, `ranks`, `peak_memory` (bytes, of rank zero's process) and, of a
    training, `machine`.
    """
    try:
        result: dict[str, Any] | None = json.loads(record_path(root, stage).read_text())
        return result
    except (OSError, ValueError):
        return None


def keep(stage: str, seconds: float, *, finished: bool) -> None:
    """Record that a stage of the working directory took `seconds`; errors are ignored.

    The seconds of a stopped run are added to those of the run that resumes it; the time of a killed
    process is lost. Only rank zero of a distributed run records.
    """
    if os.environ.get("RANK", "0") != "0":
        return
    try:
        path = record_path(paths.home(), _inputs(stage))
        stopped = path.with_suffix(".stopped")
        total = seconds + (float(stopped.read_text()) if stopped.exists() else 0.0)
        if finished:
            record = {"stage": stage, "seconds": round(total, 2), "hardware": hardware_class()}
            record["ranks"] = int(os.environ.get("WORLD_SIZE", "1"))
            record["peak_memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            if stage in paths.TRAININGS:
                record["machine"] = _machine()
            write_json(path, record)
            stopped.unlink(missing_ok=True)
        else:
            replace_file(stopped, f"{total:.2f}".encode())
    except (OSError, ValueError, DvcException):
        return


def carry_over(root: Path, before: Locked, after: Locked) -> None:
    """Copy a stage's record to its inputs after `gear accept-code`; errors are ignored."""
    with suppress(OSError, ValueError):
        record = find(root, before)
        if record is not None and find(root, after) is None:
            write_json(record_path(root, after), record)


def _machine() -> dict[str, Any]:
    """Return on what this process trains, as reports/provenance.json has it."""
    from gear.report.provenance import machine_provenance

    return machine_provenance()


def note_ranks(provenance: Path) -> None:
    """Add the number of ranks of each stage to a run's provenance, if recorded on this machine."""
    try:
        stages = Revision(WORKSPACE, "", Path()).lock()
        stages["report"] = _inputs("report")  # it is running: DVC has not locked it yet
        facts = json.loads(provenance.read_bytes())
    except (InputError, OSError, ValueError, DvcException):
        return
    found = {name: find(paths.home(), stage) for name, stage in stages.items()}
    facts["ranks"] = {name: record["ranks"] for name, record in found.items() if record}
    write_json(provenance, facts)


def _inputs(name: str) -> Locked:
    """Return a stage as dvc.lock will hold it, without outputs. DVC has just hashed the inputs."""
    with Repo() as repo:
        stage = repo.stage.load_one(name=name)
        for dependency in stage.deps:
            dependency.save()
        params = [d for d in stage.deps if isinstance(d, ParamsDependency)]
        deps = [d for d in stage.deps if not isinstance(d, ParamsDependency)]
        return Locked(
            name,
            stage.cmd,
            {d.def_path: d.hash_info.value for d in params},
            {d.def_path: d.hash_info.value for d in deps},
            {},
        )
