"""Make finished toy runs with git and DVC: three stages with settings, code and a metric."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from tests.support.repo import REPO

PIPELINE = """
stages:
  shards:
    cmd: python make.py shards
    deps: [make.py]
    params: [data]
    outs: [data/shards]
  joint:
    cmd: python make.py joint
    deps: [make.py, data/shards]
    params: [run.seed, joint]
    outs: [data/models/joint]
  evaluate:
    cmd: python make.py evaluate
    deps: [make.py, data/models/joint]
    params: [evaluate]
    metrics: [{reports/metrics.json: {cache: false}}]
    outs: [{reports/protocols.json: {cache: false}}]
"""
PARAMS = """run: {seed: 0}
data: {n: 3}
joint: {recipe: gear, steps: 300}
evaluate: {size: 64, round: 0}
"""
CODE = """
import json, os, pathlib, sys
import yaml

params = yaml.safe_load(open("params.yaml"))
pathlib.Path("ran").open("a").write(sys.argv[1] + "\\n")

def shards():
    out = pathlib.Path("data/shards/train")
    out.mkdir(parents=True, exist_ok=True)
    for i in range(params["data"]["n"]):
        (out / f"{i}.txt").write_text(f"row {i}")

def joint():
    out = pathlib.Path("data/models/joint")
    out.mkdir(parents=True, exist_ok=True)
    steps, seed, recipe = params["joint"]["steps"], params["run"]["seed"], params["joint"]["recipe"]
    speed = {"gear": 0.5, "llamagen_repa": 0.25}[recipe] + 0.01 * seed
    rows = [{"step": s, "fd": 250 - speed * s} for s in range(0, steps + 1, 100)]
    (out / "curves.jsonl").write_text("".join(json.dumps(r) + "\\n" for r in rows))
    (out / "weights").write_bytes(b"weights")

def evaluate():
    out = pathlib.Path("reports")
    out.mkdir(exist_ok=True)
    models = pathlib.Path("data/models/joint")
    last = json.loads((models / "curves.jsonl").read_text().splitlines()[-1])
    fd = last["fd"] * (models / "weights").stat().st_size / 7
    (out / "metrics.json").write_text(json.dumps({"fd": fd}))
    protocol = {"size": params["evaluate"]["size"], "seeds": params["run"]["seed"]}
    record = {"value": fd, "protocol": protocol}
    (out / "protocols.json").write_text(json.dumps({"fd": record}))

globals()[sys.argv[1]]()
if os.environ.get("PYTHONPATH"):  # else in the clone of `gear verify`, which takes it away
    from gear.runs import costs

    seconds = {"llamagen_repa": 10, "gear": 30}[params["joint"]["recipe"]]
    costs.keep(sys.argv[1], seconds, finished=True)
"""


def dvc(folder: Path, *arguments: str, ok: bool = True) -> str:
    """Run a dvc command in a checkout; return its stdout and stderr."""
    return run(folder, sys.executable, "-m", "dvc", *arguments, ok=ok)


def git(folder: Path, *arguments: str) -> str:
    """Run a git command in a checkout; return its output."""
    return run(folder, "git", "-c", "user.name=t", "-c", "user.email=t@example.com", *arguments)


def gear(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a gear command in a checkout."""
    return subprocess.run(
        [sys.executable, "-m", "gear", *arguments],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )


def environment() -> dict[str, str]:
    """Return the environment of commands in a toy run: this repository's gear and this Python."""
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPO),
        "DVC_NO_ANALYTICS": "1",
    }


def run(folder: Path, *command: str, ok: bool = True) -> str:
    done = subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=240
    )
    assert not ok or done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def toy_run(folder: Path) -> Path:
    """Make a checkout with a finished and committed run, by copying one that is made once."""
    return Path(shutil.copytree(Path(_finished().name) / "checkout", folder, symlinks=True))


def into_larger_repository(checkout: Path, repository: Path) -> Path:
    """Copy a checkout without its history to `ml/toy` of a new git repository; commit it there.

    The repository has a commit from before that, and a folder beside it.
    """
    project = repository / "ml/toy"
    shutil.copytree(checkout, project, symlinks=True, ignore=shutil.ignore_patterns(".git"))
    (repository / "web").mkdir()
    (repository / "web/index.html").write_text("page")
    run(repository, "git", "init", "-q", "-b", "main")
    for key, value in (("user.name", "t"), ("user.email", "t@example.com")):
        git(repository, "config", key, value)
    git(repository, "add", "web")
    git(repository, "commit", "-q", "-m", "before the project")
    commit(repository, "project")
    return project


@cache
def _finished() -> tempfile.TemporaryDirectory[str]:
    temporary = tempfile.TemporaryDirectory(prefix="gear-toy-run-")
    folder = Path(temporary.name) / "checkout"
    (folder / "data/models").mkdir(parents=True)
    (folder / "dvc.yaml").write_text(PIPELINE)
    (folder / "params.yaml").write_text(PARAMS)
    (folder / "make.py").write_text(CODE)
    (folder / ".gitignore").write_text("ran\n/.gear\n")
    run(folder, "git", "init", "-q", "-b", "main")
    for key, value in (("user.name", "t"), ("user.email", "t@example.com")):
        git(folder, "config", key, value)
    dvc(folder, "init", "-q")
    dvc(folder, "repro", "-q")
    commit(folder, "run")
    return temporary


def commit(folder: Path, message: str) -> str:
    """Commit everything; return the commit."""
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", message)
    return git(folder, "rev-parse", "HEAD").strip()
