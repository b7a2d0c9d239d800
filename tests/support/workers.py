"""Run Prefect deployments of toy checkouts with real workers."""

from __future__ import annotations

import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from tests.support.prefect_server import answer, post
from tests.support.repo import REPO
from tests.support.toys import toy
from tests.support.wait import wait_until

FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
TRAINER = """
import fcntl, pathlib, signal, sys, time
from gear.process import exit_with_dvc

exit_with_dvc()
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
    """Make a toy checkout with a stage that trains until `finish` exists in the notes folder.

    The stage saves on SIGTERM and records what happens in the notes folder, which is returned.
    """
    notes = folder.with_name(folder.name + "-notes")
    notes.mkdir()
    toy(folder, slow=f"exec {sys.executable} trainer.py {notes}")
    (folder / "trainer.py").write_text(TRAINER)
    (folder / "flows").symlink_to(REPO / "flows")  # the entry point has to be in the checkout
    return notes


def worker(server: dict[str, str], pool: str, log: Path) -> subprocess.Popen[bytes]:
    """Start a worker of a process pool that looks for work every second."""
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
    """End a worker by SIGTERM, or by SIGKILL if it waits for a server that is gone."""
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()


def deploy(server: dict[str, str], pool: str, folder: Path) -> str:
    """Deploy the pipeline in a checkout, one run at a time as in prefect.yaml; return the id."""
    try:
        post(server, "work_pools/", {"name": pool, "type": "process"})
    except urllib.error.HTTPError as error:
        if error.code != 409:  # the pool exists already
            raise
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


def trigger(server: dict[str, str], deployment: str, **parameters: Any) -> str:
    body = {"parameters": {"push": False, **parameters}}
    return str(post(server, f"deployments/{deployment}/create_flow_run", body)["id"])


def messages(server: dict[str, str], run: str) -> str:
    """Return the log messages of a run."""
    query = {"logs": {"flow_run_id": {"any_": [run]}}, "limit": 200, "sort": "TIMESTAMP_ASC"}
    return "\n".join(log["message"] for log in post(server, "logs/filter", query))


def run_state(server: dict[str, str], run: str) -> dict[str, Any]:
    state: dict[str, Any] = answer(
        urllib.request.Request(f"{server['PREFECT_API_URL']}/flow_runs/{run}")
    )["state"]
    return state


def ended(server: dict[str, str], run: str, seconds: float = 120) -> str:
    """Wait for a run to end; return the type of its final state."""
    assert wait_until(lambda: run_state(server, run)["type"] in FINAL, seconds), run_state(
        server, run
    )
    return str(run_state(server, run)["type"])
