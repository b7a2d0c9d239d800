"""Test the monitor flow during a real training: new states, a collapse, the end of a run."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from gear.commands.checkpoint_metrics import models_of_state, named_device
from gear.core.errors import InputError
from gear.generator.inference import load_generator
from gear.tokenizer.inference import load_tokenizer
from tests.support.commands import ENV, gear, start_joint
from tests.support.prefect_server import post
from tests.support.settings import edit_params, tiny_settings, write_params
from tests.support.wait import wait_until

FLOW = (
    "from flows.monitor import monitor; "
    "print('ended as', monitor(sys.argv[1], return_state=True).name)"
)


def train_until(cwd: Path, enough: Callable[[str], bool]) -> None:
    """Train until `enough` accepts an output line, then stop by SIGTERM, which saves the state."""
    child = start_joint(cwd)
    assert child.stdout is not None
    for line in child.stdout:
        if enough(line):
            child.terminate()
            break
    child.communicate(timeout=120)
    assert child.returncode == 128 + signal.SIGTERM


def run_flow(server: dict[str, str], cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {FLOW}", str(cwd)],
        env={**server, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    found = re.search(r"ended as (\w+)", done.stdout)
    assert found, done.stdout[-2000:] + done.stderr[-4000:]
    return found[1]


def artifact(server: dict[str, str], key: str) -> str:
    return json.dumps(
        next(a["data"] for a in post(server, "artifacts/latest/filter", {}) if a["key"] == key)
    )


def history(cwd: Path) -> list[dict[str, Any]]:
    (file,) = cwd.glob(".gear/monitor/joint-*.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


def newest_step(cwd: Path) -> int:
    found = [int(path.read_text().rsplit("-", 1)[1]) for path in cwd.glob(".gear/joint/*/latest")]
    return max(found, default=-1)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with shards, features and a warmed-up tokenizer, before joint training."""
    cwd = tmp_path_factory.mktemp("monitored")
    config = tiny_settings(
        host={"log_every": 1, "checkpoint_every": 4},
        train={"bf16": False, "warmup": 0},
        generator={"steps": 0},
        sample={"n": 32},
    )
    write_params(cwd, config)
    for stage in ("ingest", "features", "reference", "tokenizer"):
        gear(cwd, stage)
    return cwd


def copy_of(prepared: Path, folder: Path) -> Path:
    shutil.copytree(prepared, folder, ignore=shutil.ignore_patterns(".gear"))
    return folder


@pytest.mark.slow
def test_a_run_is_followed_from_its_first_state_to_its_finished_models(
    prepared: Path, tmp_path: Path
) -> None:
    cwd = copy_of(prepared, tmp_path / "c")
    assert "no training has saved anything" in gear(cwd, "monitor")
    edit_params(cwd, joint={"steps": 8, "fd_every": 0})
    train_until(cwd, lambda line: line.startswith("joint 2/"))
    step = newest_step(cwd)
    (work,) = (path.parent for path in cwd.glob(".gear/joint/*/settings.json"))
    before = {path: path.stat().st_mtime_ns for path in work.rglob("*")}
    assert f"step {step}:" in gear(cwd, "monitor", "--samples", "16")
    assert {path: path.stat().st_mtime_ns for path in work.rglob("*")} == before
    assert "nothing new" in gear(cwd, "monitor", "--samples", "16")
    (work / "stop").write_text("of a monitor that came too late")
    gear(cwd, "joint")
    gear(cwd, "generator")
    assert "finished" in gear(cwd, "monitor", "--samples", "32")
    first, last = history(cwd)
    assert (first["step"], last["step"]) == (step, None)
    assert first["run"] == last["run"] == work.name
    assert (
        set(first["metrics"]) == set(last["metrics"]) == {"usage", "perplexity", "fd", "coverage"}
    )
    gear(cwd, "sample")
    gear(cwd, "reconstruction")
    gear(cwd, "evaluate")
    gear(cwd, "codebook")
    records = json.loads((cwd / "reports/protocols.json").read_text())
    # equal to the pipeline's own evaluation with the same number of samples
    for name in ("fd", "coverage"):
        assert last["metrics"][name]["protocol"] == records[name]["protocol"]
        assert last["metrics"][name]["value"] == pytest.approx(records[name]["value"], rel=1e-4)
    counted = json.loads((cwd / "reports/codebook.json").read_text())
    assert {name: last["metrics"][name]["value"] for name in counted} == pytest.approx(
        counted, rel=1e-4
    )


@pytest.mark.slow
def test_a_collapse_raises_an_alert_and_stops_the_training(
    server: dict[str, str], prepared: Path, tmp_path: Path
) -> None:
    cwd = copy_of(prepared, tmp_path / "c")
    edit_params(
        cwd,
        joint={
            "recipe": "ste",
            "steps": 20000,
            "lr_tokenizer": 0.002,
            "lr_generator": 0.005,
            "fd_every": 0,
        },
    )
    edit_params(
        cwd, health={"min_usage": 0.25, "min_perplexity": 0.05, "window": 10**6, "after_step": 0}
    )  # the training's own health check never runs
    train_until(cwd, lambda line: line.startswith("joint 1/"))
    assert run_flow(server, cwd) == "Completed"
    assert run_flow(server, cwd) == "Skipped"
    (line,) = history(cwd)
    assert line["broken"] is None
    assert artifact(server, "monitor").count("measured") == 1
    training = start_joint(cwd)
    try:
        assert wait_until(lambda: newest_step(cwd) >= 40, 240)
        ends = [run_flow(server, cwd)]
        if ends != ["Collapsed"]:
            ends.append(run_flow(server, cwd))
        assert ends[-1] == "Collapsed"
        output, _ = training.communicate(timeout=120)
    finally:
        training.kill()
    assert training.returncode == 1
    assert "Traceback" not in output
    stopped = re.search(
        r"^gear joint: asked to stop at step (\d+): joint \w+ step \d+: "
        r"codebook usage (.*); state saved in (\S+);",
        output,
        re.M,
    )
    assert stopped, output[-3000:]
    assert "under health.min_usage = 0.25" in stopped[2]
    assert "may well end here again: change them" in output
    saved = cwd / stopped[3]
    assert saved.name == f"stopped-step-{stopped[1]}"
    assert torch.load(saved / "state.pt", weights_only=True)["step"] == int(stopped[1])
    assert "under health.min_usage = 0.25" in artifact(server, "monitor-alert")
    # the state that the next run resumes from can be loaded too
    latest = saved.parent / (saved.parent / "latest").read_text()
    assert torch.load(latest / "state.pt", weights_only=True)["step"] < int(stopped[1])
    (good,) = cwd.glob(".gear/monitor/joint-*-good")
    tokenizer, generator = load_tokenizer(good / "tokenizer"), load_generator(good / "generator")
    with torch.inference_mode():
        tokens = torch.zeros(1, generator.tokens, dtype=torch.int64)
        assert tokenizer.decode_indices(tokens).isfinite().all()
        assert str(good) in stopped[2]


def test_a_state_that_vanishes_gives_way_to_the_next(prepared: Path, tmp_path: Path) -> None:
    from gear.runs.find_checkpoints import Checkpoint, newest, snapshot

    work = tmp_path / ".gear/joint/run"
    (work / "step-4").mkdir(parents=True)
    (work / "step-4/state.pt").write_bytes(b"four")
    (work / "latest").write_text("step-4")
    (work / "settings.json").write_text("{}")
    (found,) = newest(tmp_path)
    assert isinstance(found, Checkpoint)
    assert found.step == 4
    assert snapshot(found, tmp_path / "draft")
    shutil.rmtree(work / "step-4")
    assert (tmp_path / "draft/state.pt").read_bytes() == b"four"
    assert not snapshot(found, tmp_path / "draft")
    assert newest(tmp_path) == []
    apart = tmp_path / ".dvc/tmp/exps/standalone/tmpabc/.gear/joint/other"
    (apart / "step-8").mkdir(parents=True)
    (apart / "step-8/state.pt").write_bytes(b"eight")
    (apart / "latest").write_text("step-8")
    assert [(c.run, c.step, c.root) for c in newest(tmp_path)] == [("other", 8, apart.parents[2])]
    # an experiment that runs in another folder than that of its states
    (apart / "settings.json").write_text(json.dumps({"root": str(work)}))
    assert [c.root for c in newest(tmp_path)] == [work]


def test_a_monitor_of_a_broken_setup_says_why(prepared: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gear", "monitor"],
        cwd=tmp_path,
        env=ENV,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("gear monitor: .: no params.yaml here")
    torch.save(
        {"step": 1, "averages": {"tokenizer": {"odd": torch.zeros(1)}}, "latest": {}, "rows": []},
        tmp_path / "state.pt",
    )
    with pytest.raises(InputError, match=r"joint: its state has no settings\.json"):
        models_of_state("joint", prepared, tmp_path)
    params = yaml.safe_load((prepared / "params.yaml").read_text())
    (tmp_path / "settings.json").write_text(json.dumps({"root": str(prepared), "config": params}))
    with pytest.raises(InputError, match="the saved weights do not fit this version's model"):
        models_of_state("joint", prepared, tmp_path)
    with pytest.raises(InputError, match="--device cuda:99"):
        named_device("cuda:99")
