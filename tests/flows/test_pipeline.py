"""Test the pipeline flow on a real server: stage order, kinds of failure, leftover processes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flows.pipeline import experiment, stage
from flows.stage_errors import StageBadInput, StageCrashed, StageKilled, StageStopped, classify
from gear.process import Ended
from tests.support.prefect_server import post
from tests.support.processes import processes
from tests.support.repo import REPO
from tests.support.toys import toy
from tests.support.wait import wait_until

IDENTITY = {
    f"GIT_{who}_{what}": "toy@example.org"
    for who in ("AUTHOR", "COMMITTER")
    for what in ("NAME", "EMAIL")
}
RUN = "import json, sys; from flows.pipeline import pipeline; pipeline(**json.loads(sys.argv[1]))"


def start(server: dict[str, str], folder: Path, **parameters: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", RUN, json.dumps(parameters)]
    return subprocess.Popen(
        command, cwd=folder, env=server, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(server: dict[str, str], folder: Path, **parameters: Any) -> tuple[int, str]:
    process = start(server, folder, **parameters)
    output, _ = process.communicate(timeout=120)
    return process.returncode, output


def test_stages_run_in_the_order_of_the_graph_and_results_are_published(
    server: dict[str, str], tmp_path: Path
) -> None:
    folder = toy(tmp_path / "c", zebra="true", evaluate="true", report="true")
    (folder / "reports").mkdir()
    (folder / "reports/metrics.json").write_text('{"fd": 12.5}')
    code, output = finish(server, folder)
    assert code == 0, output
    order = [output.index(f"Running stage '{name}'") for name in ("zebra", "evaluate", "report")]
    assert order == sorted(order)
    assert (folder / "report.txt").read_text() == "report\n"
    (folder / "reports/metrics.json").write_text('{"fd": 99.5}')
    code, output = finish(server, folder, targets=["zebra"])
    assert code == 0
    assert "Running stage" not in output
    assert "evaluate" not in output
    kept = post(server, "artifacts/latest/filter", {})
    tables = {a["key"]: json.dumps(a["data"]) for a in kept}
    assert "12.5" in tables["metrics"], "a run without `evaluate` has no metrics"
    assert "12.5" in tables["summary"]
    assert float(tables["pipeline-progress"]) == 100


@pytest.mark.parametrize(
    ("code", "tries", "word"),
    [(2, 1, "StageBadInput"), (1, 1, "StageStopped"), (143, 1, "StageKilled")],
)
def test_what_cannot_get_better_is_not_tried_again(
    server: dict[str, str], tmp_path: Path, code: int, tries: int, word: str
) -> None:
    folder = toy(
        tmp_path / "c", bad=f"echo try >> tries; echo 'gear bad it is wrong' 1>&2; exit {code}"
    )
    status, output = finish(server, folder)
    assert status != 0
    assert word in output
    assert "gear bad it is wrong" in output
    assert (folder / "tries").read_text().count("try") == tries


def test_a_crash_is_tried_once_more(server: dict[str, str], tmp_path: Path) -> None:
    folder = toy(tmp_path / "c", flaky="echo try >> tries; test $(wc -l < tries) -gt 1 || exit 7")
    status, output = finish(server, folder)
    assert status == 0, output
    assert (folder / "tries").read_text().count("try") == 2
    for setting in ("retries", "retry_delay_seconds", "retry_condition_fn"):
        assert getattr(experiment, setting) == getattr(stage, setting), "also of named runs"


# one shell stays the parent of the stage's process, the other is replaced by it
@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_flow_that_ends_leaves_no_stage_behind(
    server: dict[str, str], tmp_path: Path, number: int, shell: str
) -> None:
    marker = f"marker-{os.getpid()}-{number}"
    folder = toy(tmp_path / "c", slow=f"exec {sys.executable} sleeper.py {marker}")
    ready = folder / "ready"
    code = (
        "import pathlib, time; from gear.process import exit_with_dvc; exit_with_dvc(); "
        f"pathlib.Path({str(ready)!r}).touch(); time.sleep(300)"
    )
    (folder / "sleeper.py").write_text(code)
    process = start({**server, "SHELL": shell}, folder)
    assert wait_until(ready.exists, 60)
    assert processes(marker)
    process.send_signal(number)
    assert wait_until(lambda: not processes(marker), 15), processes(marker)
    process.communicate(timeout=30)


def test_a_second_run_in_the_same_checkout_is_refused(
    server: dict[str, str], tmp_path: Path
) -> None:
    folder = toy(tmp_path / "c", slow="touch started; sleep 60")
    first = start(server, folder)
    try:
        assert wait_until((folder / "started").exists, 60)
        code, output = finish(server, folder)
        assert code != 0
        assert f"{folder}: process {first.pid} works here" in output
    finally:
        first.terminate()
        first.communicate(timeout=30)


def test_a_run_beside_dvc_by_hand_is_refused(server: dict[str, str], tmp_path: Path) -> None:
    folder = toy(tmp_path / "c", slow="touch started; until test -e finish; do sleep 0.1; done")
    by_hand = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro"], cwd=folder, env=server, stdout=subprocess.DEVNULL
    )
    try:
        assert wait_until((folder / "started").exists, 60)
        code, output = finish(server, folder)
        assert code != 0
        assert f"slow.txt is in use by another DVC process (PID {by_hand.pid})" in output
        assert "wait for it" in output
    finally:
        (folder / "finish").touch()
        assert by_hand.wait(60) == 0


def test_an_experiment_survives_the_clone_that_made_it(
    server: dict[str, str], tmp_path: Path
) -> None:
    states, data, hub = tmp_path / "states", tmp_path / "data", tmp_path / "hub.git"
    command = f"exec cat images/a.png && cp params.yaml one.txt && echo $GEAR_STATES > {states}"
    folder = toy(tmp_path / "c", one=command)
    (folder / "params.yaml").write_text(
        "joint: {recipe: gear}\ndata: {source: folder, root: images}\n"
    )
    (folder / "images").mkdir()
    (folder / "images/a.png").write_text("an image that git ignores")
    (folder / ".gitignore").write_text("/images\n")

    def run(*command: str, cwd: Path = folder) -> str:
        words = [sys.executable, "-m", *command] if command[0] == "dvc" else command
        return subprocess.run(
            words, cwd=cwd, env=server | IDENTITY, check=True, capture_output=True, text=True
        ).stdout

    run("dvc", "remote", "add", "-q", "-d", "store", str(data))
    run("git", "add", "-A")
    run("git", "commit", "-q", "-m", "toy")
    code, output = finish(
        server | IDENTITY, folder, name="try-1", overrides=["joint.recipe=continued"]
    )
    assert code == 0, output
    assert "no git remote: experiment try-1 stays in this checkout" in output, output
    # not in a temporary folder, which would be gone when the run is retried
    assert states.read_text().strip() == str(folder / ".gear")
    assert not (folder / "one.txt").exists()
    assert "gear" in (folder / "params.yaml").read_text()
    run("git", "init", "-q", "--bare", str(hub))
    run("git", "remote", "add", "origin", str(hub))
    run("git", "push", "-q", "origin", "HEAD")
    code, output = finish(
        server | IDENTITY, folder, name="at-{start}", overrides=["joint.recipe=ste"]
    )
    assert code == 0, output
    (name,) = re.findall(r"Pushed experiment (at-\d{8}-\d{4}) to Git remote 'origin'", output)
    shutil.rmtree(folder)
    run("git", "clone", "-q", str(hub), str(folder), cwd=tmp_path)
    run("dvc", "exp", "pull", "-q", "origin", name)
    run("dvc", "exp", "apply", "-q", name)
    assert "recipe: ste" in (folder / "one.txt").read_text()


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"targets": ["nothing"]}, "no stage 'nothing': there are one"),
        ({"overrides": ["a.b=1"]}, "overrides without a name"),
        ({"name": "../up"}, "name '../up': letters"),
    ],
)
def test_bad_parameters_give_a_reason(
    server: dict[str, str], tmp_path: Path, parameters: dict[str, Any], words: str
) -> None:
    code, output = finish(server, toy(tmp_path / "c", one="true"), **parameters)
    assert code != 0
    assert words in output


@pytest.mark.parametrize(
    ("code", "tail", "kind"),
    [
        (255, "ERROR: failed to reproduce 'a': failed to run: x, exited with 2\n", StageBadInput),
        (255, "failed to run: x, exited with 1\n", StageStopped),
        (255, "failed to run: x, exited with 143\n", StageKilled),
        (255, "failed to run: x, exited with -15\n", StageKilled),
        (255, "failed to run: x, exited with 141\n", StageKilled),
        (255, "failed to run: x, exited with -9\n", StageCrashed),  # out of memory
        (255, "failed to run: x, exited with 137\n", StageCrashed),
        (255, "failed to run: x, exited with 70\n", StageCrashed),
        (
            255,
            "Traceback (most recent call last):\nfailed to run: x, exited with 1\n",
            StageCrashed,
        ),
        (255, "ERROR: unexpected error - [Errno 28] No space left on device\n", StageBadInput),
        (-15, "", StageKilled),
        (-9, "", StageKilled),  # DVC itself was killed
        (255, "failed to run: x, exited with 139\n", StageCrashed),
        (255, "unexpected error\n", StageCrashed),
    ],
)
def test_failures_by_kind(code: int, tail: str, kind: type) -> None:
    assert type(classify(Ended(code, tail))) is kind


def test_a_schedule_creates_runs(server: dict[str, str]) -> None:
    """Test cron schedules, which silently stop with another sqlalchemy (see constraints.txt)."""
    flow = post(server, "flows/", {"name": "scheduled"})
    schedule = {"schedule": {"cron": "*/5 * * * *", "timezone": "Europe/Berlin"}, "active": True}
    made = post(
        server,
        "deployments/",
        {"name": "every-five", "flow_id": flow["id"], "schedules": [schedule]},
    )
    wanted = {
        "deployments": {"id": {"any_": [made["id"]]}},
        "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}},
    }
    assert wait_until(lambda: len(post(server, "flow_runs/filter", wanted)) >= 2, 60)


def test_flows_do_not_load_torch() -> None:
    code = "import sys, flows.pipeline; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPO)
