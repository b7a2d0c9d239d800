"""Test kills at every level of a deployment: trainer, DVC, worker and server.

No training process may be left, none may be started twice, and the next run must finish.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gear.training.states import step_of
from tests.support.checkout import checkout
from tests.support.commands import gear
from tests.support.prefect_server import post, serving
from tests.support.processes import processes, runs_in
from tests.support.repo import REPO
from tests.support.settings import edit_params, write_params
from tests.support.wait import wait_until
from tests.support.workers import (
    deploy,
    end,
    ended,
    messages,
    run_state,
    training,
    trigger,
    worker,
)

POOL = "kills"
Case = tuple[Path, Path, str, str]  # checkout, notes folder, deployment, its run in training


@pytest.fixture(scope="module")
def pool(
    server: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Yield a function that returns the pool's running worker, started anew if it was killed."""
    log = tmp_path_factory.mktemp("worker") / "log"
    started: list[subprocess.Popen[bytes]] = []

    def living() -> subprocess.Popen[bytes]:
        if not started or started[-1].poll() is not None:
            started.append(worker(server, POOL, log))
        return started[-1]

    yield living
    end(started[-1])


@pytest.fixture
def case(
    server: dict[str, str], pool: Callable[[], subprocess.Popen[bytes]], tmp_path: Path
) -> Case:
    """Return a deployment with a run that is training."""
    folder = tmp_path / "c"
    notes = training(folder)
    deployment = deploy(server, POOL, folder)
    pool()
    run = trigger(server, deployment)
    assert wait_until((notes / "ready").exists, 120), run_state(server, run)
    return folder, notes, deployment, run


def the_next_run_finishes(server: dict[str, str], case: Case) -> None:
    folder, notes, deployment, _ = case
    assert wait_until(lambda: not runs_in(folder), 15), runs_in(folder)
    (notes / "finish").touch()
    assert ended(server, trigger(server, deployment)) == "COMPLETED"
    assert (folder / "slow.txt").read_text() == "slow\n"
    assert wait_until(lambda: not runs_in(folder), 30)
    assert (notes / "starts").read_text() == "start\nstart\n"
    assert not (notes / "second").exists()


def test_cancelling_saves_and_leaves_no_process(server: dict[str, str], case: Case) -> None:
    _, notes, _, run = case
    post(server, f"flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
    assert ended(server, run) == "CANCELLED"
    assert (notes / "saved").exists()
    the_next_run_finishes(server, case)


def test_a_killed_dvc_takes_its_stage_along(server: dict[str, str], case: Case) -> None:
    folder, notes, _, run = case
    (dvc,) = [pid for pid in processes("-m dvc repro") if pid in runs_in(folder)]
    os.kill(dvc, signal.SIGKILL)
    assert ended(server, run) == "FAILED"
    assert "StageKilled" in run_state(server, run)["message"]
    assert wait_until((notes / "saved").exists, 15)
    the_next_run_finishes(server, case)


def test_a_killed_trainer_is_started_again_once(server: dict[str, str], case: Case) -> None:
    """Test SIGKILL, which the kernel sends when memory runs out."""
    _, notes, _, run = case
    for start in ("start\n", "start\nstart\n"):
        assert wait_until(lambda start=start: (notes / "starts").read_text() == start, 60)
        for trainer in processes("trainer.py", str(notes)):
            os.kill(trainer, signal.SIGKILL)
    assert ended(server, run) == "FAILED"
    assert "StageCrashed" in run_state(server, run)["message"]
    assert (notes / "starts").read_text() == "start\nstart\n"
    assert not (notes / "second").exists()


def test_a_killed_worker_takes_its_runs_along(
    server: dict[str, str], pool: Callable[[], subprocess.Popen[bytes]], case: Case
) -> None:
    _, notes, _, run = case
    killed = pool()
    killed.kill()
    killed.wait(10)
    assert ended(server, run) == "CRASHED"
    assert wait_until((notes / "saved").exists, 15)
    pool()
    the_next_run_finishes(server, case)


@pytest.mark.slow
def test_a_killed_server_corrupts_nothing(tmp_path: Path) -> None:
    folder, log = tmp_path / "c", tmp_path / "worker.log"
    notes = training(folder)
    with ExitStack() as ends:
        with serving(tmp_path) as (server, first):
            deployment = deploy(server, POOL, folder)
            ends.callback(end, worker(server, POOL, log))
            run = trigger(server, deployment)
            assert wait_until((notes / "ready").exists, 120), run_state(server, run)
            first.kill()
            first.wait(10)
        # a training needs no server: it finishes, and its run completes when the server is back
        (notes / "finish").touch()
        assert wait_until((folder / "slow.txt").exists, 60)
        with serving(tmp_path, server):
            assert ended(server, run) == "COMPLETED"
            (folder / "slow.txt").unlink()
            assert ended(server, trigger(server, deployment)) == "COMPLETED"
            assert (folder / "slow.txt").read_text() == "slow\n"
            assert not (notes / "second").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_training_of_a_deployment_goes_on_where_it_was(
    server: dict[str, str], pool: Callable[[], subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    """Test that the flow restarts a real training that was killed as if out of memory."""
    folder = checkout(tmp_path / "c")
    edit_params(folder, tokenizer={"steps": 60}, host={"checkpoint_every": 1, "log_every": 10})
    (folder / "flows").symlink_to(REPO / "flows")
    undisturbed = tmp_path / "undisturbed"
    write_params(undisturbed)
    edit_params(undisturbed, tokenizer={"steps": 60})
    deployment = deploy(server, POOL, folder)
    pool()
    run = trigger(server, deployment, targets=["tokenizer"])

    def step() -> int:
        found = [*(folder / ".gear/tokenizer").glob("*/latest")]
        return step_of(found[0].read_text()) if found else 0

    assert wait_until(lambda: step() >= 20, 240), messages(server, run)
    (trainer,) = [pid for pid in processes("-m gear tokenizer") if pid in runs_in(folder)]
    os.kill(trainer, signal.SIGKILL)
    killed = step()
    assert ended(server, run, 240) == "COMPLETED", messages(server, run)
    resumed = re.findall(r"resuming after step (\d+)", messages(server, run))
    assert [int(number) for number in resumed] == [killed]
    for stage in ("ingest", "features", "tokenizer"):
        gear(undisturbed, stage)
    weights = "data/models/tokenizer/tokenizer/model.safetensors"
    ours, theirs = load_file(folder / weights), load_file(undisturbed / weights)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
