"""Test `dvc repro` and a Prefect deployment with host.ranks 2, and kills at every level."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.checkout import checkout, run
from tests.support.processes import processes, runs_in
from tests.support.repo import REPO
from tests.support.settings import edit_params
from tests.support.wait import wait_until
from tests.support.workers import deploy, end, ended, run_state, trigger, worker

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
DVC = (sys.executable, "-m", "dvc")
# relative to one rank's values: fp32 rounding grows over the steps of the tiny preset
TOLERANCE = {"fd": 0.05, "rfd": 0.05, "psnr": 0.01, "ntp_bits": 0.01, "coverage": 0.5}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkout after `dvc repro` with one rank, in fp32."""
    folder = checkout(tmp_path_factory.mktemp("ranks") / "one")
    (folder / "flows").symlink_to(REPO / "flows")
    edit_params(folder, train={"bf16": False}, host={"log_every": 2, "checkpoint_every": 2})
    run(folder, *DVC, "repro")
    return folder


def copy(finished: Path, folder: Path, **joint: int) -> Path:
    """Copy the checkout, with two ranks and another seed, which makes the trainings outdated."""
    shutil.copytree(finished, folder, symlinks=True)
    shutil.rmtree(folder / ".gear")
    edit_params(folder, run={"seed": 1}, host={"ranks": 2}, joint=joint)
    return folder


def metrics(folder: Path) -> dict[str, float]:
    return {
        name: value
        for file in ("metrics", "codebook")
        for name, value in json.loads((folder / f"reports/{file}.json").read_text()).items()
    }


def test_dvc_repro_with_two_ranks_has_the_metrics_of_one(finished: Path, tmp_path: Path) -> None:
    one, two = copy(finished, tmp_path / "1"), copy(finished, tmp_path / "2")
    edit_params(one, host={"ranks": 1})
    for folder in (one, two):
        run(folder, *DVC, "repro")
    assert "Running stage" not in run(two, *DVC, "repro")
    for name, allowed in TOLERANCE.items():
        assert metrics(two)[name] == pytest.approx(metrics(one)[name], rel=allowed), name
    ranks = json.loads((two / "reports/provenance.json").read_text())["ranks"]
    assert ranks["joint"] == ranks["sample"] == 2
    edit_params(two, host={"ranks": 3})
    assert "Running stage" not in run(two, *DVC, "repro"), "the number of ranks is no input"


def ranks_of(folder: Path) -> list[int]:
    """Return the processes of a joint training in a checkout: the launcher, then its ranks."""
    return sorted(pid for pid in processes("-m gear joint") if pid in runs_in(folder))


def kill_launcher(folder: Path) -> None:
    os.kill(ranks_of(folder)[0], signal.SIGKILL)


def kill_rank(folder: Path) -> None:
    os.kill(ranks_of(folder)[-1], signal.SIGKILL)


def kill_dvc(folder: Path) -> None:
    (dvc,) = [pid for pid in processes("-m dvc repro") if pid in runs_in(folder)]
    os.kill(dvc, signal.SIGKILL)


@pytest.mark.parametrize("kill", [kill_launcher, kill_rank, kill_dvc])
def test_a_kill_leaves_no_process_and_the_next_repro_resumes(
    finished: Path, tmp_path: Path, kill: Callable[[Path], None]
) -> None:
    folder = copy(finished, tmp_path / "c", steps=3000)
    log = folder / ".gear/logs/joint.jsonl"
    with (tmp_path / "out").open("w") as out:
        job = subprocess.Popen([*DVC, "repro", "joint"], cwd=folder, stdout=out, stderr=out)
        assert wait_until(lambda: log.exists() and log.read_text().count("\n") > 2, 300)
        kill(folder)
        job.wait(60)
    assert wait_until(lambda: not runs_in(folder), 15), runs_in(folder)
    (latest,) = folder.glob(".gear/joint/*/latest")
    edit_params(folder, joint={"steps": int(latest.read_text().split("-")[1]) + 2})
    done = subprocess.run(
        [*DVC, "repro", "joint"], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-2000:]
    assert "resuming after step" in done.stdout + done.stderr


def test_a_deployment_uses_the_ranks_and_a_killed_worker_leaves_none(
    server: dict[str, str], finished: Path, tmp_path: Path
) -> None:
    folder = copy(finished, tmp_path / "c", steps=3000)
    log = folder / ".gear/logs/joint.jsonl"
    deployment = deploy(server, "ranks", folder)
    living = worker(server, "ranks", tmp_path / "log")
    first = trigger(server, deployment)
    assert wait_until(lambda: log.exists() and log.read_text().count("\n") > 2, 400), run_state(
        server, first
    )
    assert len(ranks_of(folder)) == 3, "a launcher and two ranks"
    living.kill()
    living.wait(10)
    assert wait_until(lambda: not runs_in(folder), 15), runs_in(folder)
    (latest,) = folder.glob(".gear/joint/*/latest")
    edit_params(folder, joint={"steps": int(latest.read_text().split("-")[1]) + 2})
    living = worker(server, "ranks", tmp_path / "log")
    try:
        assert ended(server, trigger(server, deployment), 600) == "COMPLETED"
    finally:
        end(living)
    provenance = json.loads((folder / "reports/provenance.json").read_text())
    assert provenance["ranks"]["joint"] == 2
    assert wait_until(lambda: not runs_in(folder), 30)
