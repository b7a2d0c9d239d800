"""Test `gear verify` and `gear accept-code` of runs whose images neither git nor DVC holds."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from gear.dvc_experiments import copied_images
from tests.support.runs import commit, dvc, gear, toy_run

NAME = "my [é] *"  # git would take it for a pattern


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run on images in the project, which git ignores; tests must not change it."""
    folder = toy_run(tmp_path_factory.mktemp("outside") / "checkout")
    (folder / ".gitignore").write_text((folder / ".gitignore").read_text() + "/my*\n")
    return run_on_images(folder, NAME)


@pytest.fixture
def checkout(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "checkout", symlinks=True))


def run_on_images(folder: Path, root: str) -> Path:
    """Make the shards depend on images, run it and commit."""
    (folder / root).mkdir()
    for number in range(3):
        (folder / root / f"{number}.txt").write_text(f"image {number}")
    edit(folder / "params.yaml", "n: 3", f"n: 3, root: '{root}'")
    edit(folder / "dvc.yaml", "deps: [make.py]\n    params: [data]", DEPENDENCY)
    edit(folder / "make.py", 'write_text(f"row {i}")', READ)
    dvc(folder, "repro", "-q")
    commit(folder, "images")
    return folder


DEPENDENCY = 'deps: [make.py, "${data.root}"]\n    params: [data]'
READ = 'write_text((pathlib.Path(params["data"]["root"]) / f"{i}.txt").read_text())'


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def row(done: subprocess.CompletedProcess[str], what: str) -> str:
    """Return a row of the table of checks, without its hashes: stage, what, verdict."""
    (line,) = (line for line in done.stdout.splitlines() if what in line)
    stage, rest = line.split(" ", 1)
    return f"{stage} {what} {rest.split()[-1]}"


def test_images_that_git_ignores_are_read_where_they_are(checkout: Path) -> None:
    done = gear(checkout, "verify")
    assert done.returncode == 0, done.stdout + done.stderr
    assert row(done, f"{NAME} on this machine") == f"shards {NAME} on this machine same"
    assert "made again, same bytes: shards, evaluate; " in done.stdout
    assert copied_images(checkout, NAME) == [f"--copy-paths={NAME}"]
    assert sorted(path.name for path in (checkout / NAME).iterdir()) == [
        "0.txt",
        "1.txt",
        "2.txt",
    ]


def test_other_images_or_none_are_one_line(checkout: Path) -> None:
    lost = f"not here as the run read it, not looked at: {NAME}"
    (checkout / NAME / "new.txt").write_text("new")
    done = gear(checkout, "verify")
    assert done.returncode == 2
    assert f"stage shards reads {NAME}, which is neither in git nor in DVC's" in done.stderr
    assert "what is there now is not what the run read" in done.stderr
    assert done.stderr.count("\n") == 1
    done = gear(checkout, "verify", "--stages", "evaluate")
    assert done.returncode == 0, done.stderr
    assert lost in done.stdout
    shutil.rmtree(checkout / NAME)
    done = gear(checkout, "verify")
    assert done.returncode == 2
    assert "and not on this machine: put what the run read there" in done.stderr
    done = gear(checkout, "verify", "--stages")
    assert done.returncode == 2
    assert done.stderr.rstrip().endswith(lost)


def test_code_is_accepted_without_the_images(checkout: Path) -> None:
    edit(checkout / "make.py", "import yaml", "import yaml  # YAML")
    commit(checkout, "edit")
    images = [line for line in (checkout / "dvc.lock").read_text().split("- ") if NAME in line]
    (checkout / NAME / "new.txt").write_text("new")
    done = gear(checkout, "accept-code", "--unproved", "joint")
    assert done.returncode == 2
    assert "what is there now is not what the run read" in done.stderr
    done = gear(checkout, "accept-code", "--unproved", "joint", "shards")
    assert done.returncode == 0, done.stderr
    assert "same outputs: evaluate; not proved: shards, joint" in done.stdout
    after = [line for line in (checkout / "dvc.lock").read_text().split("- ") if NAME in line]
    assert after == images


@pytest.mark.parametrize(
    "where",
    [
        "elsewhere",
        pytest.param("in part", marks=pytest.mark.slow),
        pytest.param("in git", marks=pytest.mark.slow),
        pytest.param("in DVC", marks=pytest.mark.slow),
    ],
)
def test_images_of_other_places(tmp_path: Path, where: str) -> None:
    folder = toy_run(tmp_path / "checkout")
    root = str(tmp_path / "images") if where == "elsewhere" else "images"
    if where == "in part":
        (folder / ".gitignore").write_text((folder / ".gitignore").read_text() + "1.txt\n")
    run_on_images(folder, root)
    if where == "in DVC":
        subprocess.run(["git", "rm", "-rq", "--cached", "images"], cwd=folder, check=True)
        dvc(folder, "add", "-q", "images")
        commit(folder, "images in DVC")
        shutil.rmtree(folder / "images")
    done = gear(folder, "verify")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "made again, same bytes: shards, evaluate; " in done.stdout
    if where in ("elsewhere", "in part"):
        assert row(done, f"{root} on this machine").endswith("same")
    if where != "in part":
        assert copied_images(folder, root) == []
