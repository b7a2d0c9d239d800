"""Test that a fresh clone pulls a finished run from a local, S3 or SSH remote and verifies it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.support.remotes import s3_server, ssh_server
from tests.support.runs import dvc, gear, git, toy_run

OUTS = ("data/shards/train/0.txt", "data/models/joint/curves.jsonl", "data/models/joint/weights")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_run(tmp_path_factory.mktemp("remotes") / "checkout")


@pytest.fixture(params=["local", "s3", "ssh"])
def remote(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Yield the .dvc/config.local of an empty remote, as written by docs/reproducing.md."""
    server = {
        "local": nullcontext({}),
        "s3": s3_server("gear"),
        "ssh": ssh_server(tmp_path / "sshd"),
    }[request.param]
    with server as options:
        store = tmp_path / "store"
        url = {"local": str(store), "s3": "s3://gear/store", "ssh": f"ssh://127.0.0.1{store}"}[
            request.param
        ]
        lines = [
            "[core]",
            "remote = store",
            "['remote \"store\"']",
            f"url = {url}",
            *(f"{k} = {v}" for k, v in options.items()),
        ]
        yield "\n".join(lines) + "\n"


def clone(source: Path, target: Path, remote: str) -> Path:
    git(source.parent, "clone", "-q", str(source), str(target))
    (target / ".dvc/config.local").write_text(remote)
    return target


def ran(folder: Path, said: str) -> bool:
    """Return whether any stage ran, by DVC's output and by the file that stages leave."""
    return "Running stage" in said or (folder / "ran").exists()


def test_a_fresh_clone_has_a_finished_run_and_runs_nothing_again(
    finished: Path, tmp_path: Path, remote: str
) -> None:
    (finished / ".dvc/config.local").write_text(remote)
    dvc(finished, "push", "-q")

    pulled = clone(finished, tmp_path / "pulled", remote)
    dvc(pulled, "pull", "-q")
    assert not ran(pulled, dvc(pulled, "repro"))
    assert [(pulled / out).read_bytes() for out in OUTS] == [
        (finished / out).read_bytes() for out in OUTS
    ]

    wanted = clone(finished, tmp_path / "wanted", remote)
    assert not ran(wanted, dvc(wanted, "repro", "--pull"))
    assert (wanted / OUTS[0]).is_file()
    assert not git(wanted, "status", "--porcelain")


@pytest.mark.parametrize("remote", ["local"], indirect=True)
def test_a_fresh_clone_verifies_and_compares_what_it_pulled(
    finished: Path, tmp_path: Path, remote: str
) -> None:
    home = clone(finished, tmp_path / "home", remote)
    git(tmp_path, "clone", "-q", "--bare", str(finished), "hub.git")
    git(home, "remote", "set-url", "origin", str(tmp_path / "hub.git"))
    (home / ".dvc/config.local").write_text(remote + f"[cache]\ndir = {finished / '.dvc/cache'}\n")
    dvc(home, "exp", "run", "--temp", "-q", "-n", "tried", "-S", "joint.recipe=llamagen_repa")
    dvc(home, "push", "-q")
    dvc(home, "exp", "push", "-q", "origin", "tried")

    fresh = clone(tmp_path / "hub.git", tmp_path / "fresh", remote)
    dvc(fresh, "pull", "-q")
    done = gear(fresh, "verify", "--all")
    assert done.returncode == 0, done.stdout + done.stderr
    dvc(fresh, "exp", "pull", "-q", "origin", "tried")
    done = gear(fresh, "compare", "HEAD", "tried")
    assert done.returncode == 0, done.stderr
    assert "recipe llamagen_repa" in done.stdout, done.stderr
