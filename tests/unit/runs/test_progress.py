"""Test that what is done, running and left is read from files alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from gear.core.errors import InputError
from gear.runs.progress import Pipeline, StageProgress, left_after, lock_holder
from tests.support.runs import toy_run


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return toy_run(tmp_path / "checkout")


@contextmanager
def sleeping_process(*arguments: str) -> Iterator[int]:
    """Run a process that sleeps, with arguments that it ignores; yield its id."""
    code = "import time; print(flush=True); time.sleep(60)"
    command = [sys.executable, "-c", code, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as sleeper:
        assert sleeper.stdout
        sleeper.stdout.readline()
        yield sleeper.pid
        sleeper.kill()


@pytest.fixture
def process() -> Iterator[int]:
    with sleeping_process() as pid:
        yield pid


@pytest.fixture
def dvc() -> Iterator[int]:
    with sleeping_process("dvc", "repro") as pid:
        yield pid


def states(checkout: Path) -> dict[str, str]:
    return {stage.name: stage.state for stage in Pipeline(checkout).progress()}


def stage(checkout: Path, name: str, now: float | None = None) -> StageProgress:
    return next(one for one in Pipeline(checkout).progress(now) if one.name == name)


def test_a_finished_run_is_done_with_its_costs(checkout: Path) -> None:
    assert states(checkout) == dict.fromkeys(("shards", "joint", "evaluate"), "done")
    joint = stage(checkout, "joint")
    assert joint.seconds == 30
    assert joint.memory
    assert joint.memory > 1 << 20


def test_a_changed_setting_leaves_its_stage_and_those_after_it(checkout: Path) -> None:
    params = checkout / "params.yaml"
    params.write_text(params.read_text().replace("steps: 300", "steps: 400"))
    assert states(checkout) == {"shards": "done", "joint": "left", "evaluate": "left"}
    assert stage(checkout, "joint").left == 30  # seconds that it took the last time
    assert stage(checkout, "joint").steps == 400


@pytest.mark.parametrize(
    ("file", "key", "content"),
    [
        ("gear.lock", "code.gear/joint", "code:\n  gear/joint: '{}'\n"),
        ("pyproject.toml", "tool.gear.pins.torch", "[tool.gear.pins]\ntorch = '{}'\n"),
    ],
)
def test_other_code_or_libraries_leave_their_stage(
    checkout: Path, file: str, key: str, content: str
) -> None:
    lock = yaml.safe_load((checkout / "dvc.lock").read_text())
    lock["stages"]["joint"].setdefault("params", {})[file] = {key: "1"}
    (checkout / "dvc.lock").write_text(yaml.safe_dump(lock))
    (checkout / file).write_text(content.format("1"))
    assert states(checkout)["joint"] == "done"
    (checkout / file).write_text(content.format("2"))
    assert states(checkout)["joint"] == "left"


def test_what_is_left_after_a_stage_is_told_while_dvc_runs(
    checkout: Path, process: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkout)
    assert left_after("shards") is None
    params = checkout / "params.yaml"
    params.write_text(params.read_text().replace("steps: 300", "steps: 400"))
    lock = checkout / ".dvc/tmp/lock"
    lock.parent.mkdir(exist_ok=True)
    lock.write_text(str(process))
    monkeypatch.setattr("gear.runs.progress._command", lambda pid: b"python -m dvc repro")
    assert left_after("shards") == "About 1 min left."  # joint and evaluate, 30 s each
    assert left_after("joint") == "About 30 s left."
    for record in (checkout / ".gear/costs").glob("evaluate-*"):
        record.unlink()
    assert left_after("joint") == "Left: evaluate; how long they take is known after one run."
    params.write_text(params.read_text().replace("steps: 400", "steps: 300"))
    assert left_after("evaluate") == "All stages are done."


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ([], False),
        (["--quiet", "-f"], False),
        (["--quiet", "--single-item", "shards"], True),
        (["-s"], True),
        (["joint"], True),
    ],
)
def test_a_part_of_the_pipeline_is_told_from_the_whole(
    checkout: Path, options: list[str], part: bool
) -> None:
    """Test the command line of a real process, which reads `dvc repro` and the options."""
    code = "import sys; print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, "dvc", "repro", *options]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        lock = checkout / ".dvc/tmp/lock"
        lock.parent.mkdir(exist_ok=True)
        lock.write_text(str(child.pid))
        assert Pipeline(checkout).dvc_runs()
        assert Pipeline(checkout).dvc_runs_part() is part
        child.communicate(b"")


def test_a_deleted_output_leaves_its_stage(checkout: Path) -> None:
    (checkout / "reports/metrics.json").unlink()
    assert states(checkout)["evaluate"] == "left"
    assert states(checkout)["joint"] == "done"


def test_a_lock_file_that_is_being_written_does_not_undo_what_was_known(checkout: Path) -> None:
    pipeline = Pipeline(checkout)
    assert {one.state for one in pipeline.progress()} == {"done"}
    lock = checkout / "dvc.lock"
    lock.write_text(lock.read_text()[:70])
    assert {one.state for one in pipeline.progress()} == {"done"}
    lock.unlink()
    assert {one.state for one in pipeline.progress()} == {"left"}


def write_rwlock(checkout: Path, out: str, pid: int) -> None:
    """Write DVC's lock of an output that the process `pid` writes."""
    path = str(checkout.resolve() / out)
    entry = {"write": {path: {"pid": pid, "cmd": "dvc repro"}}}
    (checkout / ".dvc/tmp/rwlock").write_text(json.dumps(entry))


def test_what_dvc_writes_just_now_is_running(checkout: Path, dvc: int) -> None:
    write_rwlock(checkout, "data/shards", dvc)
    found = states(checkout)
    assert found == {"shards": "running", "joint": "left", "evaluate": "left"}


def test_a_lock_of_a_killed_dvc_leaves_its_stage(checkout: Path, process: int) -> None:
    (checkout / "reports/metrics.json").unlink()
    write_rwlock(checkout, "reports/metrics.json", process)  # another program has this id now
    assert states(checkout)["evaluate"] == "left"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"write": []}', '{"write": {"x": {"pid": "y"}}}'])
def test_a_damaged_lock_of_dvc_says_nothing(checkout: Path, text: str) -> None:
    (checkout / ".dvc/tmp/rwlock").write_text(text)
    assert set(states(checkout).values()) == {"done"}


def test_a_training_that_runs_tells_its_step_and_time_left(checkout: Path, process: int) -> None:
    params = checkout / "params.yaml"
    params.write_text(params.read_text().replace("steps: 300}", "steps: 300, batch: 16}"))
    work = checkout / ".gear"
    (work / "joint").mkdir(parents=True, exist_ok=True)
    (work / "joint/lock").write_text(f"process {process}")
    (work / "logs").mkdir(exist_ok=True)
    rows = [{"step": step, "images_per_s": 32.0} for step in (0, 50, 100)]
    log = work / "logs/joint.jsonl"
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    now = log.stat().st_mtime
    os.utime(work / "joint/lock", (now - 60, now - 60))
    joint = stage(checkout, "joint", now)
    assert (joint.state, joint.step, joint.steps) == ("running", 100, 300)
    assert joint.left == pytest.approx(100)  # 200 steps of half a second
    assert stage(checkout, "joint", now + 30).left == pytest.approx(70)
    assert stage(checkout, "joint", now + 900).left == 0
    os.utime(work / "joint/lock", (now + 60, now + 60))  # a new run that has logged nothing yet
    assert stage(checkout, "joint", now + 90).step == 0


def test_a_lock_names_a_living_process_or_nobody(tmp_path: Path, process: int) -> None:
    lock = tmp_path / "lock"
    assert lock_holder(lock) is None
    lock.write_text(f"process {process}")
    assert lock_holder(lock) == process
    for text in ("", "process", "process 0x1", "process 999999999", "process 1" + "0" * 30):
        lock.write_text(text)
        assert lock_holder(lock) is None


def test_dvc_is_at_work_while_the_process_of_its_lock_lives(checkout: Path, process: int) -> None:
    lock = checkout / ".dvc/tmp/lock"
    assert not Pipeline(checkout).dvc_runs()  # the run of this checkout has ended
    lock.write_text(f" {process}\n")
    assert not Pipeline(checkout).dvc_runs()  # another program has this process id now
    with sleeping_process("dvc", "repro") as dvc:
        lock.write_text(f" {dvc}\n")
        assert Pipeline(checkout).dvc_runs()
    assert not Pipeline(checkout).dvc_runs()


def test_looking_takes_no_lock(checkout: Path) -> None:
    """Test that only DVC's caches change, and that a locked checkout is not waited for."""
    before = {
        f: f.stat().st_mtime_ns for f in checkout.rglob("*") if f.is_file() and ".dvc" not in str(f)
    }
    with (checkout / ".dvc/tmp/lock").open("w"):
        started = time.monotonic()
        states(checkout)
        assert time.monotonic() - started < 30
    after = {
        f: f.stat().st_mtime_ns for f in checkout.rglob("*") if f.is_file() and ".dvc" not in str(f)
    }
    assert before == after


def test_a_folder_without_a_pipeline_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run in a checkout"):
        Pipeline(tmp_path)
    (tmp_path / "dvc.yaml").write_text("stages: {}")
    with pytest.raises(InputError, match="no stages"):
        Pipeline(tmp_path)
