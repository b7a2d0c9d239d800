"""A finished run in a DVC remote, local, S3 or SSH: a fresh clone has it by pulling, runs nothing again, and can verify it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from remotes import s3_server, ssh_server
from runs import dvc, gear, git, toy_run

OUTS = ("data/shards/train/0.txt", "data/models/joint/curves.jsonl", "data/models/joint/weights")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_run(tmp_path_factory.mktemp("remotes") / "checkout")


@pytest.fixture(params=["local", "s3", "ssh"])
def remote(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[list[str]]]:
    """The dvc commands that set the remote up, as docs/reproducing.md has them."""
    server = {"local": nullcontext({}), "s3": s3_server("gear"), "ssh": ssh_server(tmp_path / "sshd")}[request.param]
    with server as options:
        store = tmp_path / "store"
        url = {"local": str(store), "s3": "s3://gear/store", "ssh": f"ssh://127.0.0.1{store}"}[request.param]
        yield [["remote", "add", "--local", "-d", "store", url]] + [
            ["remote", "modify", "--local", "store", name, value] for name, value in options.items()
        ]


def clone(source: Path, target: Path, remote: list[list[str]]) -> Path:
    git(source.parent, "clone", "-q", str(source), str(target))
    for command in remote:
        dvc(target, *command, "-q")
    return target


def test_a_fresh_clone_has_a_finished_run_and_runs_nothing_again(finished: Path, tmp_path: Path, remote: list[list[str]]) -> None:
    for command in remote:
        dvc(finished, *command, "-f" if command[1] == "add" else "-q")
    dvc(finished, "exp", "run", "--temp", "-q", "-n", "tried", "-S", "joint.recipe=llamagen_repa")
    dvc(finished, "push", "-q")
    git(tmp_path, "clone", "-q", "--bare", str(finished), "hub.git")
    git(finished, "remote", "add", "hub", str(tmp_path / "hub.git"))
    try:
        dvc(finished, "exp", "push", "-q", "hub", "tried")
    finally:
        git(finished, "remote", "remove", "hub")
        dvc(finished, "exp", "remove", "-q", "tried")

    pulled = clone(tmp_path / "hub.git", tmp_path / "pulled", remote)
    dvc(pulled, "pull", "-q")
    said = dvc(pulled, "repro")
    assert "Running stage" not in said and not (pulled / "ran").exists()
    assert [(pulled / out).read_bytes() for out in OUTS] == [(finished / out).read_bytes() for out in OUTS]
    done = gear(pulled, "verify", "--all")
    assert done.returncode == 0, done.stdout + done.stderr

    dvc(pulled, "exp", "pull", "-q", "origin", "tried")
    done = gear(pulled, "compare", "HEAD", "tried")
    assert done.returncode == 0 and "recipe llamagen_repa" in done.stdout, done.stderr

    wanted = clone(tmp_path / "hub.git", tmp_path / "wanted", remote)
    said = dvc(wanted, "repro", "--pull")
    assert "Running stage" not in said and not (wanted / "ran").exists() and (wanted / OUTS[0]).is_file()
    assert not git(wanted, "status", "--porcelain")
