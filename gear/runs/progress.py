"""Report which stages of the pipeline are done, running or left, and how long they take.

Only files are read: dvc.yaml, dvc.lock, params.yaml, the locks of DVC and of trainings, logs and
costs. No lock is taken, so watching a run never blocks it.
"""

from __future__ import annotations

import json
import os
import re
import time
import tomllib
from collections.abc import Container
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException

from gear import paths
from gear.core.errors import InputError
from gear.core.yaml_text import parse_yaml
from gear.runs import costs
from gear.runs.revision import LOCK, WORKSPACE, Locked, Revision, content_md5
from gear.runs.training_log import Row, TrainingLog, seconds_per_step
from gear.training.reporter import duration

DVC_LOCK = Path(".dvc/tmp/lock")  # names the process that runs DVC, between stages too
SINGLE_ITEM = (b"-s", b"--single-item")  # options of `dvc repro`
DVC_LOCKS = Path(".dvc/tmp/rwlock")  # JSON: who reads and writes which path, while a stage runs
CODE = "gear/"  # these dependencies are hashed again; data is compared within dvc.lock
RECHECK = 30.0  # seconds after which code is hashed again


@dataclass(frozen=True)
class StageProgress:
    """Progress of a stage; None for what is not known.

    state: "done", "running" or "left". step, steps: of a training. seconds: duration of a finished
    stage, as recorded on this machine. left: estimated seconds to its end. memory: peak memory of
    its process (rank 0) in bytes.
    """

    name: str
    state: str
    step: int | None = None
    steps: int | None = None
    seconds: float | None = None
    left: float | None = None
    memory: int | None = None


class Pipeline:
    """Reads the progress of a checkout, repeatedly; unchanged files are not parsed again."""

    def __init__(self, root: Path) -> None:
        """Open a checkout. Raises `InputError` if it has no readable dvc.yaml."""
        self.root = root.resolve()
        self.logs = {
            stage: TrainingLog(self.root / paths.LOGS / f"{stage}.jsonl")
            for stage in paths.TRAININGS
        }
        self.output_curves = {
            stage: TrainingLog(self.root / folder / "curves.jsonl")
            for stage, folder in paths.TRAININGS.items()
        }
        file = self.root / paths.PIPELINE
        stages = read_again(file, "run in a checkout").get("stages")
        if not isinstance(stages, dict) or not stages:
            raise InputError(f"{file}: no stages")
        self.outs = {name: _outs(stage) for name, stage in stages.items()}
        self._lock: dict[str, Locked] = {}
        self._lock_stamp: tuple[int, int] | None = None
        self._code: dict[str, str] = {}
        self._code_time = -RECHECK

    def settings(self) -> dict[str, Any]:
        """Return the content of params.yaml. Raises `InputError` if it cannot be read."""
        return read_again(self.root / paths.PARAMS, "write one with `gear preset`")

    def progress(self, now: float | None = None) -> list[StageProgress]:
        """Return the progress of all stages, in the order of dvc.yaml; now: Unix time."""
        now = time.time() if now is None else now
        try:
            settings = self.settings()
        except InputError:  # someone is writing it
            settings = {}
        self._read_lock()
        running = self._running()
        done = self._done(settings, set(running))
        return [
            self._running_stage(name, settings, running[name], now)
            if name in running
            else self._done_stage(name)
            if name in done
            else StageProgress(name, "left", steps=_steps(name, settings), left=self._earlier(name))
            for name in self.outs
        ]

    def _done_stage(self, name: str) -> StageProgress:
        record = costs.find(self.root, self._lock[name]) or {}
        return StageProgress(
            name, "done", seconds=record.get("seconds"), memory=record.get("peak_memory")
        )

    def _done(self, settings: dict[str, Any], running: set[str]) -> set[str]:
        """Return the stages that are done; their dependencies must be done too."""
        done: set[str] = set()
        while more := {
            name
            for name in self.outs
            if name not in done | running and self._is_done(name, settings, done)
        }:
            done |= more
        return done

    def _read_lock(self) -> None:
        """Read dvc.lock if it changed; keep the previous content while DVC writes it."""
        try:
            status = (self.root / LOCK).stat()
        except OSError:
            self._lock, self._lock_stamp = {}, None
            return
        stamp = (status.st_mtime_ns, status.st_size)
        if stamp == self._lock_stamp:
            return
        try:
            self._lock = Revision(WORKSPACE, "", self.root).lock()
            self._lock_stamp = stamp
        except (InputError, DvcException, OSError, ValueError):
            return

    def _is_done(self, name: str, settings: dict[str, Any], done: set[str]) -> bool:
        """Return whether dvc.lock records the stage with the current settings, inputs and code."""
        stage = self._lock.get(name)
        if stage is None or not all((self.root / out).exists() for out in self.outs[name]):
            return False
        for file, values in stage.params.items():
            current = settings if file == str(paths.PARAMS) else self._param_file(file)
            if any(value_at(current, key) != value for key, value in values.items()):
                return False
        made = {out: other for other, outs in self.outs.items() for out in outs}
        for path, md5 in stage.deps.items():
            maker = made.get(path) or next(
                (other for out, other in made.items() if path.startswith(f"{out}/")), None
            )
            if maker is not None:
                recorded = self._lock[maker].outs.get(path) if maker in self._lock else None
                if maker not in done or (recorded is not None and recorded != md5):
                    return False
            elif path.startswith(CODE) and self._code_md5(path) != md5:
                return False
        return True

    def _param_file(self, file: str) -> dict[str, Any]:
        """Return gear.lock or pyproject.toml, which record versions and code; {} if unreadable."""
        try:
            if file.endswith(".toml"):
                return parsed_toml((self.root / file).read_text())
            return read_again(self.root / file, "")
        except (InputError, OSError, ValueError):
            return {}

    def _code_md5(self, path: str) -> str:
        now = time.monotonic()
        if now - self._code_time > RECHECK:
            self._code, self._code_time = {}, now
        if path not in self._code:
            try:
                self._code[path] = content_md5(self.root, path)
            except (OSError, DvcException):
                self._code[path] = ""
        return self._code[path]

    def _running(self) -> dict[str, int]:
        """Return the process id of each running stage: the training's, else DVC's."""
        found: dict[str, int] = {}
        try:
            locks = json.loads((self.root / DVC_LOCKS).read_bytes())
            writes = locks.get("write", {})
            pids = {str(path): int(info["pid"]) for path, info in writes.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pids = {}
        for name, outs in self.outs.items():
            for out in outs:
                pid = pids.get(str(self.root / out))
                if pid is not None and _dvc_process(pid) is not None:
                    found[name] = pid
        for name in paths.TRAININGS:
            pid = lock_holder(self.root / paths.WORK / name / "lock")
            if name in self.outs and pid is not None:
                found[name] = pid
        return found

    def _running_stage(
        self, name: str, settings: dict[str, Any], pid: int, now: float
    ) -> StageProgress:
        steps, batch = _steps(name, settings), value_at(settings, f"{_section(name)}.batch")
        if name not in self.logs:
            since = _modified(self.root / DVC_LOCKS)
            earlier = self._earlier(name)
            left = max(0.0, earlier - (now - since)) if earlier is not None and since else earlier
            return StageProgress(name, "running", left=left)
        log = self.logs[name]
        rows = log.rows()
        started = _modified(self.root / paths.WORK / name / "lock")
        written = _modified(log.path)
        if not rows or (started is not None and written is not None and written < started):
            return StageProgress(name, "running", 0, steps, left=self._earlier(name))
        step, left = int(rows[-1]["step"]), self._earlier(name)
        pace = seconds_per_step(rows, batch) if isinstance(batch, int) else None
        if pace is not None and steps is not None and written is not None:
            left = max(0.0, (steps - step) * pace - max(0.0, now - written))
        return StageProgress(name, "running", step, steps, left=left, memory=peak_memory(pid))

    def _earlier(self, name: str) -> float | None:
        """Return the seconds of the stage's last run here, with any settings; None if unknown."""
        files = sorted(
            (self.root / paths.COSTS).glob(f"{name}-*.json"), key=lambda f: _modified(f) or 0.0
        )
        for file in reversed(files):
            try:
                return float(json.loads(file.read_bytes())["seconds"])
            except (OSError, ValueError, KeyError, TypeError):
                continue
        return None

    def dvc_runs(self) -> bool:
        """Return whether DVC is running here, which includes the time between two stages."""
        return self._dvc_command() is not None

    def dvc_runs_part(self) -> bool:
        """Return whether `dvc repro` is running some stages only: targets, or a single one."""
        words = (self._dvc_command() or b"").split()
        given = words[words.index(b"repro") + 1 :] if b"repro" in words else []
        return any(word in SINGLE_ITEM or not word.startswith(b"-") for word in given)

    def _dvc_command(self) -> bytes | None:
        """Return the command line of the DVC that is running here, or None."""
        try:
            named = re.fullmatch(rb"\s*(\d{1,9})\s*", (self.root / DVC_LOCK).read_bytes())
        except OSError:
            return None
        return None if named is None else _dvc_process(int(named[1]))

    def curves(self, done: Container[str]) -> dict[str, list[Row]]:
        """Return the rows of each training that has any.

        They are those of its log; if it is one of `done` and its output is of another run, those of
        the output.
        """
        found = {}
        for stage, log in self.logs.items():
            of_output = stage in done and not self.log_is_of_output(stage)
            if rows := (self.output_curves[stage] if of_output else log).rows():
                found[stage] = rows
        return found

    def log_is_of_output(self, stage: str) -> bool:
        """Return whether a training's log ends like the curve of its output.

        It does not if the output is of another run, as after `dvc checkout`. True if the output has
        no curve.
        """
        rows, curve = self.logs[stage].rows(), self.output_curves[stage].rows()
        return not curve or (bool(rows) and curve[-1].items() <= rows[-1].items())


def time_left(progress: list[StageProgress], *, dvc_runs: bool = False) -> str:
    """Return the remaining time of the stages as text.

    >>> time_left([StageProgress("a", "done"), StageProgress("b", "running", left=70.0)])
    'About 1 min left.'
    >>> time_left([StageProgress("a", "left", left=70.0), StageProgress("b", "left")])
    'Nothing runs. About 1 min and the unknown time of b are left.'
    """
    open_stages = [stage for stage in progress if stage.state != "done"]
    if not open_stages:
        return "All stages are done."
    idle = not dvc_runs and all(stage.state == "left" for stage in open_stages)
    start = "Nothing runs. " if idle else ""
    known = sum(stage.left for stage in open_stages if stage.left is not None)
    unknown = [stage.name for stage in open_stages if stage.left is None]
    if not unknown:
        return f"{start}About {duration(known)} left."
    if known < 1:
        return f"{start}Left: {', '.join(unknown)}; how long they take is known after one run."
    return f"{start}About {duration(known)} and the unknown time of {', '.join(unknown)} are left."


def left_after(stage: str) -> str | None:
    """Return the remaining time of the pipeline after a stage that is ending, as text.

    None if DVC does not run it, or runs a part of the pipeline only.

    Raises:
        InputError: if the working directory is not a checkout.
    """
    pipeline = Pipeline(Path())
    if not pipeline.dvc_runs() or pipeline.dvc_runs_part():
        return None
    left = [one for one in pipeline.progress() if one.name != stage and one.state == "left"]
    return time_left(left, dvc_runs=True)


def read_again(file: Path, absent: str) -> dict[str, Any]:
    """Return the mapping in a YAML file like `read_yaml`, parsed only if its content changed."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}: {absent}") from None
    return parsed(content, file.name)


@lru_cache(maxsize=8)
def parsed(content: bytes, source: str) -> dict[str, Any]:
    """Return the mapping in a YAML document like `parse_yaml`; it is cached: do not modify it."""
    return parse_yaml(content, source)


@lru_cache(maxsize=8)
def parsed_toml(content: str) -> dict[str, Any]:
    """Return the mapping in a TOML document; it is cached: do not modify it."""
    return tomllib.loads(content)


def value_at(settings: dict[str, Any], key: str) -> Any:
    """Return a setting, or a whole section, by its dotted name; None if there is none.

    >>> value_at({"joint": {"steps": 3}}, "joint.steps"), value_at({}, "joint.steps")
    (3, None)
    """
    value: Any = settings
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def is_alive(pid: int) -> bool:
    """Return whether a process exists."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True


def lock_holder(lock: Path) -> int | None:
    """Return the id of the living Python process that a lock file names; None if there is none.

    The lock itself is not tried: holding it even for a moment could block a training.
    """
    try:
        named = re.fullmatch(rb"process (\d{1,9})", lock.read_bytes().strip())
    except OSError:
        return None
    if named is None or not is_alive(int(named[1])):
        return None
    command = _command(int(named[1]))  # another program may have this id by now
    return int(named[1]) if b"gear" in command or b"python" in command else None


def _dvc_process(pid: int) -> bytes | None:
    """Return the command line of a process that runs DVC; None if it ended.

    A DVC that was killed leaves its id in the locks, which another program may have by now.
    """
    command = _command(pid) if is_alive(pid) else b""
    return command if b"dvc" in command else None


def _command(pid: int) -> bytes:
    """Return the command line of a process; without /proc, one that passes for any."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
    except OSError:
        return b"python dvc"


def peak_memory(pid: int) -> int | None:
    """Return the peak memory of a process in bytes; None if it cannot be read."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def _outs(stage: Any) -> list[str]:
    """Return the paths that a stage of dvc.yaml writes."""
    entries = [*stage.get("outs", []), *stage.get("metrics", [])]
    return [str(next(iter(entry)) if isinstance(entry, dict) else entry) for entry in entries]


def _section(stage: str) -> str:
    # the generator stage uses the batch size of joint training
    return "joint" if stage == "generator" else stage


def _steps(stage: str, settings: dict[str, Any]) -> int | None:
    steps = value_at(settings, f"{stage}.steps") if stage in paths.TRAININGS else None
    return steps if isinstance(steps, int) else None


def _modified(file: Path) -> float | None:
    try:
        return file.stat().st_mtime
    except OSError:
        return None
