"""Real workers on toy checkouts: a deployment, its runs, and the processes that belong to them."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from test_pipeline import answer, post, wait_until
from toys import REPO, toy

FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
TRAINER = """
import fcntl, pathlib, signal, sys, time
from gear.cli import end_with_dvc

end_with_dvc()
here = pathlib.Path(sys.argv[1])
lock = (here / "lock").open("w")
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    (here / "second").touch()
    sys.exit(3)


def save(*_):
    (here / "saved").touch()
    sys.exit(143)


signal.signal(signal.SIGTERM, save)
with (here / "starts").open("a") as starts:
    starts.write("start\\n")
(here / "ready").touch()
while not (here / "finish").exists():
    time.sleep(0.05)
pathlib.Path("slow.txt").write_text("slow\\n")
"""


def training(folder: Path) -> Path:
    """A toy checkout whose one stage trains until `notes/finish` is there, saves on SIGTERM, and notes what happened."""
    notes = folder.with_name(folder.name + "-notes")
    notes.mkdir()
    toy(folder, slow=f"exec {sys.executable} trainer.py {notes}")
    (folder / "trainer.py").write_text(TRAINER)
    (folder / "flows").symlink_to(REPO / "flows")  # a deployment's entry point lies in its checkout
    return notes


def worker(server: dict[str, str], pool: str, log: Path) -> subprocess.Popen[bytes]:
    """A worker of a process pool that looks for work every second."""
    command = [
        sys.executable,
        "-m",
        "prefect",
        "worker",
        "start",
        "--pool",
        pool,
        "--type",
        "process",
        "--limit",
        "2",
    ]
    with log.open("ab") as out:
        return subprocess.Popen(
            command, env={**server, "PREFECT_WORKER_QUERY_SECONDS": "1"}, stdout=out, stderr=out
        )


def end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, and SIGKILL to one that does not hear it: no worker outlives its test."""
    process.terminate()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()


def deploy(server: dict[str, str], pool: str, folder: Path) -> str:
    """A deployment of the pipeline in a checkout, one run at a time as in prefect.yaml; its id."""
    try:
        post(server, "work_pools/", {"name": pool, "type": "process"})
    except urllib.error.HTTPError as error:  # it is there
        assert error.code == 409
    flow = post(server, "flows/", {"name": "pipeline"})
    body = {
        "name": folder.parent.name,
        "flow_id": flow["id"],
        "entrypoint": "flows/pipeline.py:pipeline",
        "work_pool_name": pool,
        "pull_steps": [
            {"prefect.deployments.steps.set_working_directory": {"directory": str(folder)}}
        ],
        "concurrency_limit": 1,
        "concurrency_options": {"collision_strategy": "ENQUEUE"},
        "enforce_parameter_schema": False,
    }
    return str(post(server, "deployments/", body)["id"])


def trigger(server: dict[str, str], deployment: str) -> str:
    return str(
        post(server, f"deployments/{deployment}/create_flow_run", {"parameters": {"push": False}})[
            "id"
        ]
    )


def run_state(server: dict[str, str], run: str) -> dict[str, Any]:
    state: dict[str, Any] = answer(
        urllib.request.Request(f"{server['PREFECT_API_URL']}/flow_runs/{run}")
    )["state"]
    return state


def ended(server: dict[str, str], run: str, seconds: float = 120) -> str:
    """The final state's type."""
    assert wait_until(lambda: run_state(server, run)["type"] in FINAL, seconds), run_state(
        server, run
    )
    return str(run_state(server, run)["type"])


def processes(*words: str) -> list[int]:
    """Living processes whose command line has all the words, this one apart."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            dead = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
        except OSError:
            continue
        if all(word in line for word in words) and not dead and int(entry.name) != os.getpid():
            found.append(int(entry.name))
    return found


def runs_in(folder: Path) -> list[int]:
    """Living processes that work in a checkout: flow runs, DVC, shells, stages."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            inside = os.readlink(entry / "cwd") == str(folder)
            dead = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
        except OSError:
            continue
        if inside and not dead:
            found.append(int(entry.name))
    return found
