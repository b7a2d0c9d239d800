"""Test training stages as processes: resuming, signals, two ranks, locks and failures."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.support.commands import ENV, gear, run_gear, start_joint
from tests.support.repo import REPO
from tests.support.settings import edit_params
from tests.support.trackers import (
    live_points,
    mlflow_points,
    tensorboard_points,
    wandb_points,
)
from tests.support.wait import wait_until


def weights(cwd: Path, model: str) -> bytes:
    return (cwd / "data/models/joint" / model / "model.safetensors").read_bytes()


def twin(prepared: Path, tmp_path: Path) -> Path:
    cwd = tmp_path / "twin"
    shutil.copytree(prepared, cwd)
    shutil.rmtree(cwd / "data/models/joint")
    shutil.rmtree(cwd / ".gear/joint")
    return cwd


def kill_at_step_4(cwd: Path, number: int = signal.SIGKILL) -> int:
    """Start a joint training, send it a signal at step 4, and return its exit code."""
    child = start_joint(cwd)
    assert child.stdout is not None
    for line in child.stdout:
        if line.startswith("joint 4/"):
            child.send_signal(number)
            break
    child.communicate(timeout=120)
    return child.returncode


def assert_same_models(cwd: Path, other: Path) -> None:
    for model in ("tokenizer", "generator", "projector"):
        assert weights(cwd, model) == weights(other, model), model


def curve(cwd: Path) -> str:
    return (cwd / "data/models/joint/curves.jsonl").read_text()


@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGKILL]
)
def test_a_killed_joint_run_resumes_bitwise(prepared: Path, tmp_path: Path, number: int) -> None:
    cwd = twin(prepared, tmp_path)
    assert kill_at_step_4(cwd, number) == (143 if number == signal.SIGTERM else -9)
    assert not (cwd / "data/models/joint").exists()
    assert list(cwd.glob(".gear/joint/*/latest"))
    gear(cwd, "joint")
    assert_same_models(cwd, prepared)
    assert curve(cwd) == curve(prepared)


def test_a_killed_run_resumes_after_neutral_changes(prepared: Path, tmp_path: Path) -> None:
    """Change the folder, host and health settings, the trackers, and a docstring."""
    cwd = twin(prepared, tmp_path)
    edit_params(cwd, host={"trackers": ["dvclive", "tensorboard", "wandb", "mlflow"]})
    kill_at_step_4(cwd)
    (latest,) = cwd.glob(".gear/joint/*/latest")
    saved = latest.read_text().removeprefix("step-")
    moved = cwd.rename(tmp_path / "moved")
    # a kill in the middle of a write leaves an empty file
    (moved / "reports/live/joint/metrics.json").write_text("")
    shutil.copytree(REPO / "gear", moved / "gear", ignore=shutil.ignore_patterns("__pycache__"))
    losses = moved / "gear/losses/adversarial.py"
    losses.write_text(losses.read_text().replace('"""', '"""Three more words: ', 1))
    edit_params(
        moved,
        host={"log_every": 4, "checkpoint_every": 5, "workers": 1, "sample_batch": 7},
        health={"window": 3, "min_usage": 0.0},
    )
    env = {**ENV, "PYTHONPATH": str(moved)}
    command = [sys.executable, "-m", "gear", "joint"]
    done = subprocess.run(command, cwd=moved, env=env, capture_output=True, text=True, timeout=300)
    assert f"resuming after step {saved} of" in done.stderr
    assert done.returncode == 0, done.stderr[-3000:]
    assert_same_models(moved, prepared)
    assert_logged_once(moved)


def assert_logged_once(cwd: Path) -> None:
    """Check that every tracker has every step once, however the training was killed."""
    live = live_points(cwd / "reports/live/joint")
    rows = [json.loads(line) for line in curve(cwd).splitlines()]
    assert [value for _, value in live["loss/ntp"]] == [row["loss/ntp"] for row in rows[1:]]
    kinds = {name.split("/")[0] for name in live} - {key.split("/")[0] for key in rows[-1]}
    assert kinds == {"grad_norm", "images_per_s", "lr", "memory", "time"}
    for read in (tensorboard_points, wandb_points, mlflow_points):
        points = read(cwd / ".gear")
        assert points.keys() == live.keys()
        for name, expected in live.items():
            logged = points[name]
            assert [step for step, _ in logged] == [step for step, _ in expected], name
            if name in rows[-1]:  # not timings: two processes may have taken a step
                assert [v for _, v in logged] == pytest.approx([v for _, v in expected]), name


@pytest.mark.slow
def test_more_steps_continue_a_finished_run_bitwise(prepared: Path, tmp_path: Path) -> None:
    cwd = twin(prepared, tmp_path)
    edit_params(cwd, joint={"steps": 5})
    gear(cwd, "joint")
    edit_params(cwd, joint={"steps": 8})
    assert "resuming after step 5" in run_gear(cwd, "joint").stderr
    assert_same_models(cwd, prepared)
    assert curve(cwd) == curve(prepared)


def test_a_state_of_another_zero_stage_goes_on(prepared: Path, tmp_path: Path) -> None:
    cwd = twin(prepared, tmp_path)
    edit_params(cwd, joint={"steps": 5})
    gear(cwd, "joint")
    edit_params(cwd, joint={"steps": 8}, host={"zero_stage": 2})
    done = run_gear(cwd, "joint")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "resuming after step 5" in done.stderr
    assert "trained with zero_stage = 1, it goes on with 2: equal but for rounding" in done.stdout
    for model in ("tokenizer", "generator", "projector"):
        file = f"data/models/joint/{model}/model.safetensors"
        ours, theirs = load_file(cwd / file), load_file(prepared / file)
        assert max((ours[k] - theirs[k]).abs().max().item() for k in ours) < 1e-4, model


@pytest.mark.slow
def test_two_ranks_equal_one(prepared: Path, tmp_path: Path) -> None:
    cwd = twin(prepared, tmp_path)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        "-m",
        "gear",
        "joint",
    ]
    done = subprocess.run(command, cwd=cwd, env=ENV, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    for model in ("tokenizer", "generator"):
        one = load_file(prepared / "data/models/joint" / model / "model.safetensors")
        two = load_file(cwd / "data/models/joint" / model / "model.safetensors")
        worst = max((one[name] - two[name]).abs().mean().item() for name in one)
        moved = max(one[name].abs().max().item() for name in one)
        assert worst < 1e-4 * max(1.0, moved), f"{model}: {worst}"
        assert all(torch.isfinite(value).all() for value in two.values())


@pytest.mark.parametrize("settings", [pytest.param("the same", marks=pytest.mark.slow), "others"])
def test_a_second_trainer_of_a_stage_is_refused(
    prepared: Path, tmp_path: Path, settings: str
) -> None:
    cwd = twin(prepared, tmp_path)
    edit_params(cwd, joint={"steps": 400})
    first = start_joint(cwd)
    try:
        assert wait_until(lambda: [*cwd.glob(".gear/joint/*/latest")] or first.poll(), 120)
        assert first.poll() is None
        if settings == "others":
            edit_params(cwd, joint={"lambda_tok": 0.25})
        second = run_gear(cwd, "joint", timeout=120)
        assert second.returncode == 2
        assert "another process is training" in second.stderr
    finally:
        first.kill()
        first.communicate()


def test_a_collapsed_codebook_stops_training_with_its_reason(
    prepared: Path, tmp_path: Path
) -> None:
    cwd = twin(prepared, tmp_path)
    edit_params(cwd, health={"min_usage": 1.0, "min_perplexity": 1.0, "window": 2, "after_step": 2})
    done = run_gear(cwd, "joint", timeout=120)
    assert done.returncode == 1
    assert "codebook collapsed" in done.stderr
    assert "health.min_" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (cwd / "data/models/joint").exists()


def test_a_loss_that_is_not_finite_stops_training_and_names_its_images(
    prepared: Path, tmp_path: Path
) -> None:
    cwd = twin(prepared, tmp_path)
    edit_params(cwd, loss={"l1": 1e39})
    done = run_gear(cwd, "joint", timeout=120)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "joint step 0: the tokenizer loss is inf; its weights were not moved" in done.stderr
    (file,) = cwd.glob(".gear/joint/*/nonfinite-step-0-rank-0.json")
    assert str(file.relative_to(cwd)) in done.stderr
    assert len(json.loads(file.read_text())["images"]) == 8
    assert not (cwd / "data/models/joint").exists()
