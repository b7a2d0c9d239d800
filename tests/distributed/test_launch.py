"""Tests of `host.ranks`: trainings that launch their own ranks."""

from __future__ import annotations

import base64
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gear.core.errors import InputError
from gear.launch import free_gpus, is_rank
from gear.process import prepare_child
from tests.support.commands import ENV, run_gear, start_joint
from tests.support.docs import blocks
from tests.support.processes import is_alive, runs_in
from tests.support.settings import edit_params
from tests.support.wait import wait_until
from tests.support.weights import assert_close, share_apart


@pytest.fixture
def two(prepared: Path, tmp_path: Path) -> Path:
    """Return a copy of the prepared folder before joint training, with two ranks."""
    cwd = tmp_path / "two"
    shutil.copytree(prepared, cwd)
    shutil.rmtree(cwd / "data/models/joint")
    shutil.rmtree(cwd / ".gear/joint")
    edit_params(cwd, host={"ranks": 2})
    return cwd


def start(cwd: Path) -> subprocess.Popen[str]:
    """Start a training of many steps with two ranks, and wait for its fourth step."""
    edit_params(cwd, joint={"steps": 400})
    child = start_joint(cwd)
    assert child.stdout is not None
    for line in child.stdout:
        if line.startswith("joint 4/"):
            break
    return child


def test_two_ranks_of_its_own_equal_one(
    two: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Test also that no run leaves a folder of its own among the temporary files."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setitem(ENV, "TMPDIR", str(temporary))
    done = run_gear(two, "joint")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "joint: 2 ranks" in done.stdout
    assert done.stdout.count("joint 8/8") == 1, "rank zero alone reports"
    assert_close(two, prepared)
    assert share_apart(two, prepared, 1e-5) < 1e-3
    assert not [*temporary.glob("torchelastic_*")]


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_signal_saves_and_leaves_no_rank(two: Path, number: int) -> None:
    child = start(two)
    child.send_signal(number)
    output, _ = child.communicate(timeout=60)
    assert child.returncode == 128 + number
    assert output.count("state saved, the same command resumes") == 1, output
    assert wait_until(lambda: not runs_in(two), 15)
    assert [*two.glob(".gear/joint/*/latest")]


@pytest.mark.slow
def test_a_killed_launcher_takes_its_ranks_along_and_the_next_run_resumes(two: Path) -> None:
    child = start(two)
    child.kill()
    child.communicate(timeout=60)
    assert wait_until(lambda: not runs_in(two), 15)
    (latest,) = two.glob(".gear/joint/*/latest")
    edit_params(two, joint={"steps": int(latest.read_text().split("-")[1]) + 1})
    done = run_gear(two, "joint")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "resuming after step" in done.stderr


def test_a_killed_rank_ends_the_job_and_is_named(two: Path) -> None:
    child = start(two)
    listed = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
    ranks = [int(pid) for pid in listed if _rank(int(pid)) == "1"]
    os.kill(ranks[0], signal.SIGKILL)
    output, _ = child.communicate(timeout=60)
    assert child.returncode == 137
    assert "gear joint: rank 1 of 2 was ended by SIGKILL" in output
    assert wait_until(lambda: not runs_in(two), 15)
    assert not is_alive(ranks[0])


def _rank(pid: int) -> str:
    pairs = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return next((p.removeprefix(b"RANK=").decode() for p in pairs if p.startswith(b"RANK=")), "")


def failures(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Return the lines by which `gear joint` says why it failed."""
    return [line for line in done.stderr.splitlines() if line.startswith("gear joint")]


def test_bad_input_is_one_line_for_all_ranks(two: Path) -> None:
    edit_params(two, host={"ranks": 3})
    done = run_gear(two, "joint")
    assert done.returncode == 2
    assert failures(done) == [
        "gear joint: a batch of 8 images does not divide by 3 ranks: "
        "the ranks' means would weigh images unequally"
    ]


def test_bad_input_of_a_rank_other_than_zero_is_one_line(two: Path) -> None:
    """Test a state of which only the file that rank one reads is damaged."""
    edit_params(two, joint={"steps": 2})
    assert run_gear(two, "joint").returncode == 0
    (state,) = two.glob(".gear/joint/*/step-2")
    (state / "manifest.json").unlink()  # else rank zero would find the damage
    damaged = [*state.rglob("*rank_1_*optim_states.pt")]
    assert damaged
    for file in damaged:
        file.write_bytes(b"damaged")
    edit_params(two, joint={"steps": 4})
    done = run_gear(two, "joint")
    assert done.returncode == 2, done.stderr[-2000:]
    (line,) = failures(done)
    assert line.startswith(f"gear joint: {state.relative_to(two)}/")
    assert "damaged, or of other models" in line
    assert wait_until(lambda: not runs_in(two), 15)
    assert not [*two.glob(".gear/logs/first-failure-*")]


MASTER = {"MASTER_ADDR": "node1", "MASTER_PORT": "29500"}
IN_A_STEP = {"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}


@pytest.mark.parametrize(
    "environment",
    [
        {"SLURM_NTASKS": "8"},
        {"SLURM_NTASKS": "8", **MASTER},
        {**IN_A_STEP, "SLURM_STEP_NUM_TASKS": "1", **MASTER},
    ],
    ids=["batch script", "batch script with MASTER_ADDR", "salloc shell"],
)
def test_a_process_of_a_slurm_job_outside_srun_is_no_rank(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    monkeypatch.setattr(os, "environ", environment)
    assert not is_rank()


def test_srun_s_step_has_the_number_of_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {**IN_A_STEP, "SLURM_STEP_NUM_TASKS": "2", **MASTER})
    assert is_rank()
    assert os.environ["WORLD_SIZE"] == "2"
    assert os.environ["RANK"] == os.environ["LOCAL_RANK"] == "0"


@pytest.mark.parametrize("name", MASTER)
def test_srun_s_ranks_need_the_first_node_and_a_port(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    environment = {**IN_A_STEP, "SLURM_STEP_NUM_TASKS": "2", **MASTER}
    monkeypatch.setattr(os, "environ", {k: v for k, v in environment.items() if k != name})
    with pytest.raises(InputError, match=f"{name} is not set"):
        is_rank()


@pytest.mark.slow
def test_ranks_that_something_else_started_join(two: Path) -> None:
    """Test that ranks started by srun or torchrun launch no ranks themselves."""
    env = {**ENV, "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
    command = [sys.executable, "-m", "gear", "joint"]
    done = subprocess.run(command, cwd=two, env=env, capture_output=True, text=True, timeout=100)
    assert done.returncode == 2
    assert "MASTER_ADDR is not set" in done.stderr
    env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(29400 + os.getpid() % 500)}
    both = [
        subprocess.Popen(
            command,
            cwd=two,
            env={**env, "SLURM_PROCID": rank, "SLURM_LOCALID": rank},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for rank in ("0", "1")
    ]
    outputs = [process.communicate(timeout=200)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert "joint 8/8" in outputs[0]
    assert "joint 8/8" not in outputs[1]


def test_deepspeed_s_launcher_starts_the_documented_command(tmp_path: Path) -> None:
    """Test its arguments with a stub of `gear` in the current folder."""
    (tmp_path / "gear").mkdir()
    (tmp_path / "gear/__main__.py").write_text("import sys; print(sys.argv[1:])")
    (command,) = (b.text for b in blocks() if b.text.startswith("deepspeed "))
    nodes = base64.urlsafe_b64encode(json.dumps({"localhost": [0]}).encode()).decode()
    launcher = [sys.executable, "-m", "deepspeed.launcher.launch", f"--world_info={nodes}"]
    done = subprocess.run(
        [*launcher, *shlex.split(command)[1:]],
        cwd=tmp_path,
        env={**ENV, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "['joint']" in done.stdout.splitlines()


HOLD = """
import sys
from pathlib import Path
from gear.launch import free_gpus
print(",".join(free_gpus(["0", "1", "2"], int(sys.argv[1]), Path(sys.argv[2]))), flush=True)
sys.stdin.read()
"""


def hold(count: int, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLD, str(count), str(folder)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=ENV, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def test_runs_at_the_same_time_take_other_gpus(tmp_path: Path) -> None:
    first, second = hold(2, tmp_path), None
    try:
        assert first.stdout is not None
        assert first.stdout.readline() == "0,1\n"
        with pytest.raises(InputError, match=r"host\.ranks is 2 and 1 of 3 GPUs are free"):
            free_gpus(["0", "1", "2"], 2, tmp_path)
        second = hold(1, tmp_path)
        assert second.stdout is not None
        assert second.stdout.readline() == "2\n", "what did not suffice is free again"
    finally:
        for process in (first, second):
            if process is not None:
                process.kill()
                process.communicate()
    third = hold(3, tmp_path)
    try:
        assert third.stdout is not None
        assert third.stdout.readline() == "0,1,2\n", "a killed run holds nothing"
    finally:
        third.kill()
        third.communicate()


@pytest.mark.slow
def test_a_rank_that_hangs_ends_the_job(two: Path) -> None:
    edit_params(two, host={"rank_timeout": 8})
    child = start(two)
    listed = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
    (stopped,) = [int(pid) for pid in listed if _rank(int(pid)) == "1"]
    os.kill(stopped, signal.SIGSTOP)
    output, _ = child.communicate(timeout=90)
    assert child.returncode not in (0, 1, 2), output[-2000:]
    assert wait_until(lambda: not runs_in(two), 15)
    edit_params(two, host={"rank_timeout": 600}, joint={"steps": 8})
    assert run_gear(two, "joint").returncode == 0


SLOW_RANK = """
import os, signal, time
from pathlib import Path

rank, caught = os.environ["RANK"], []
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda number, frame: caught.append(number))
Path(f"ready-{rank}").touch()
deadline = time.monotonic() + 60
while not caught and not Path("end").exists() and time.monotonic() < deadline:
    time.sleep(0.1)
if caught:
    time.sleep(35)  # PyTorch's launcher kills after 30 seconds by default
    Path(f"saved-{rank}").touch()
"""
LAUNCHER = """
import os, signal, sys
from gear.launch import run_ranks

if sys.argv[1:] == ["nohup"]:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
os.environ["PYTHONPATH"] = os.getcwd()  # with the package of the slow ranks
run_ranks(["joint"], 2)
"""


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    """Return a folder with a launcher of two ranks that take 35 seconds to save."""
    (tmp_path / "gear").mkdir()
    (tmp_path / "gear/__init__.py").touch()
    (tmp_path / "gear/__main__.py").write_text(SLOW_RANK)
    (tmp_path / "launcher.py").write_text(LAUNCHER)
    return tmp_path


def launch(slow: Path, *words: str) -> subprocess.Popen[bytes]:
    """Start the launcher, and wait until its ranks run."""
    child = subprocess.Popen(
        [sys.executable, "-P", "launcher.py", *words], cwd=slow, env=ENV, preexec_fn=prepare_child
    )
    assert wait_until(lambda: len([*slow.glob("ready-*")]) == 2, 60)
    return child


@pytest.mark.slow
def test_ranks_may_take_longer_than_half_a_minute_to_save(slow: Path) -> None:
    with launch(slow) as child:
        child.send_signal(signal.SIGTERM)
        assert child.wait(timeout=120) == 128 + signal.SIGTERM
    assert len([*slow.glob("saved-*")]) == 2


def test_a_second_interrupt_ends_ranks_that_are_saving(slow: Path) -> None:
    with launch(slow) as child:
        child.send_signal(signal.SIGINT)
        time.sleep(1.5)
        child.send_signal(signal.SIGINT)
        assert child.wait(timeout=20) == 128 + signal.SIGINT
    assert wait_until(lambda: not runs_in(slow), 5)


def test_under_nohup_ranks_go_on_without_their_terminal(slow: Path) -> None:
    with launch(slow, "nohup") as child:
        child.send_signal(signal.SIGHUP)
        time.sleep(1.5)
        assert child.poll() is None
        (slow / "end").touch()
        assert child.wait(timeout=20) == 0
