"""Test that the files of deploy/ parse, and that the Slurm scripts run with a stub of srun."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flows.server import POOLS
from tests.support.checkout import checkout, run
from tests.support.processes import runs_in
from tests.support.repo import REPO
from tests.support.settings import edit_params
from tests.support.wait import wait_until

DEPLOY = REPO / "deploy"
SRUN = """#!/bin/bash
options=()
while [[ $1 == --* ]]; do options+=("$1"); shift; done
echo "${options[*]} with $SRUN_CPUS_PER_TASK CPUs: $*" >> "$SLURM_SUBMIT_DIR/srun.log"
for rank in 0 1; do
    SLURM_STEP_NUM_TASKS=2 SLURM_PROCID=$rank SLURM_LOCALID=$rank "$@" &
    ranks+=($!)
done
code=0
for rank in "${ranks[@]}"; do wait "$rank" || code=$?; done
exit $code
"""
SCONTROL = """#!/bin/bash
echo "$@" >> "$SLURM_SUBMIT_DIR/scontrol.log"
echo 127.0.0.1
"""


@pytest.mark.parametrize("script", sorted(DEPLOY.glob("*.sh")), ids=lambda path: path.name)
def test_scripts_are_bash(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert os.access(script, os.X_OK)


def test_compose_asks_for_passwords_and_listens_on_this_machine_only() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    assert services.keys() == {"database", "server", "worker", "worker-cpu"}
    pools = set()
    for name in ("worker", "worker-cpu"):
        assert services[name]["stop_grace_period"] == "300s", "trainings save their state"
        command = services[name]["command"]
        assert (DEPLOY.parent / command[0]).exists()
        pools.add(command[command.index("--pool") + 1])
    assert pools == POOLS.keys()
    for service in services.values():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:")
    text = (DEPLOY / "compose.yaml").read_text()
    assert "${PREFECT_PASSWORD:?" in text
    assert "${POSTGRES_PASSWORD:?" in text


def test_the_job_s_pod_can_save_before_it_is_killed() -> None:
    job = yaml.safe_load((DEPLOY / "kubernetes.yaml").read_text())
    pod = job["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] >= 120
    (container,) = pod["containers"]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
    (checkout,) = (m for m in container["volumeMounts"] if m["mountPath"] == "/gear")
    assert "persistentVolumeClaim" in next(
        v for v in pod["volumes"] if v["name"] == checkout["name"]
    )


def slurm(folder: Path) -> dict[str, str]:
    """Return the environment of a Slurm job of two tasks, with stubs of srun and scontrol."""
    stubs = folder / "stubs"
    stubs.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (stubs / name).write_text(text)
        (stubs / name).chmod(0o755)
    (folder / ".venv").symlink_to(Path(sys.executable).parent.parent)
    return {
        **os.environ,
        "PATH": f"{stubs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(folder),
        "OMP_NUM_THREADS": "1",
        "SLURM_SUBMIT_DIR": str(folder),
        "SLURM_JOB_NODELIST": "node1",
        "SLURM_JOB_ID": "7",
        "MASTER_PORT": str(29600 + os.getpid() % 300),
    }


def test_srun_gives_each_rank_its_cpus_and_ends_all_if_one_fails(tmp_path: Path) -> None:
    """Test the job's commands with stubs of python and of dvc, which finds two stages changed."""
    environment = {**slurm(tmp_path), "SLURM_CPUS_PER_TASK": "6"}
    (tmp_path / ".venv").unlink()
    activate = tmp_path / ".venv/bin/activate"
    activate.parent.mkdir(parents=True)
    activate.touch()
    dvc = "#!/bin/bash\n[[ $1 != status || ! $3 =~ ^(joint|sample)$ ]]\n"
    for name, text in (("dvc", dvc), ("python", "#!/bin/bash\n")):
        (tmp_path / "stubs" / name).write_text(text)
        (tmp_path / "stubs" / name).chmod(0o755)
    subprocess.run(["bash", str(DEPLOY / "slurm-nodes.sh")], env=environment, check=True)
    assert (tmp_path / "srun.log").read_text().splitlines() == [
        f"--kill-on-bad-exit=1 with 6 CPUs: python -m gear {stage}" for stage in ("joint", "sample")
    ]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_srun_s_ranks_make_what_dvc_records(tmp_path: Path) -> None:
    folder = checkout(tmp_path / "c")
    environment = {**slurm(folder), "SLURM_NTASKS": "2"}
    done = subprocess.run(
        ["bash", str(DEPLOY / "slurm-nodes.sh")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert "Running stage" not in run(folder, sys.executable, "-m", "dvc", "repro")
    assert json.loads((folder / "reports/metrics.json").read_text())["fd"] > 0
    ranks = json.loads((folder / "reports/provenance.json").read_text())["ranks"]
    assert ranks["joint"] == ranks["evaluate"] == 2


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_job_that_runs_out_of_time_saves_and_goes_back_to_the_queue(tmp_path: Path) -> None:
    folder = checkout(tmp_path / "c")
    edit_params(folder, joint={"steps": 4000}, host={"log_every": 2})
    log = (folder / "log").open("w")
    job = subprocess.Popen(
        ["bash", str(DEPLOY / "slurm-node.sh")], env=slurm(folder), stdout=log, stderr=log
    )
    assert wait_until(lambda: "joint 4/" in (folder / "log").read_text(), 400)
    job.send_signal(signal.SIGTERM)
    job.wait(60)
    assert "state saved" in (folder / "log").read_text()
    assert (folder / "scontrol.log").read_text() == "requeue 7\n"
    assert wait_until(lambda: not runs_in(folder), 15)
    (latest,) = folder.glob(".gear/joint/*/latest")
    edit_params(folder, joint={"steps": int(latest.read_text().split("-")[1]) + 1})
    output = run(folder, sys.executable, "-m", "dvc", "repro", "joint")
    assert "Running stage 'joint'" in output
    assert "Running stage 'tokenizer'" not in output
