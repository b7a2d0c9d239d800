"""Test `gear accept-code` on a real DVC run, with edits that change results and that do not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from gear.core.files import write_json
from gear.runs import costs
from gear.runs.revision import find_revision
from tests.support.runs import commit, dvc, gear, toy_run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_run(tmp_path_factory.mktemp("accept") / "checkout")


@pytest.fixture
def checkout(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "checkout", symlinks=True))


def edit(folder: Path, file: str, old: str, new: str) -> bytes:
    """Edit a file and commit it; return dvc.lock."""
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new))
    commit(folder, "edit")
    return (folder / "dvc.lock").read_bytes()


def test_an_edit_that_changes_no_result_is_proved_and_taken_over(checkout: Path) -> None:
    joint = find_revision("workspace", checkout).lock()["joint"]
    spent = {"stage": "joint", "seconds": 30.0}
    write_json(costs.record_path(checkout, joint), spent)
    edit(checkout, "make.py", "import yaml\n", "import yaml  # YAML\n")
    assert "make.py" in dvc(checkout, "status")
    done = gear(checkout, "accept-code")
    assert done.returncode == 2
    assert "joint: trainings, which are not run again unless you say so" in done.stderr
    assert "make.py" in dvc(checkout, "status")
    done = gear(checkout, "accept-code", "--unproved", "joint")
    assert done.returncode == 0, done.stderr
    assert "same outputs: shards, evaluate; not proved: joint" in done.stdout
    assert "make.py" not in dvc(checkout, "status")
    assert costs.find(checkout, find_revision("workspace", checkout).lock()["joint"]) == spent
    ran = (checkout / "ran").read_text()
    dvc(checkout, "repro")
    assert (checkout / "ran").read_text() == ran, "nothing runs again"
    commit(checkout, "lock")
    assert "already" in gear(checkout, "accept-code").stdout
    edit(checkout, "make.py", "# YAML", "# settings")
    done = gear(checkout, "accept-code", "--all")
    assert "same outputs: shards, joint, evaluate\n" in done.stdout, done.stderr


def test_an_edit_that_changes_a_result_is_refused(checkout: Path) -> None:
    before = edit(checkout, "make.py", 'f"row {i}"', 'f"line {i}"')
    done = gear(checkout, "accept-code", "--unproved", "joint")
    assert done.returncode == 1
    assert "shards: data/shards came out different" in done.stderr
    assert (checkout / "dvc.lock").read_bytes() == before


def test_more_than_code_is_refused(checkout: Path) -> None:
    before = edit(checkout, "params.yaml", "steps: 300", "steps: 200")
    done = gear(checkout, "accept-code")
    assert done.returncode == 2
    assert "joint: setting joint.steps is not the recorded one" in done.stderr
    (checkout / "params.yaml").write_text("run: {seed: 1}\n")
    assert "changed and not committed" in gear(checkout, "accept-code").stderr
    assert (checkout / "dvc.lock").read_bytes() == before


def test_code_that_is_edited_while_stages_run_is_not_taken_over(checkout: Path) -> None:
    """Test an edit of the checkout by the stage itself, which runs in a clone."""
    code = checkout / "gear/code.py"
    code.parent.mkdir()
    code.write_text("size = 1\n")
    pipeline = (checkout / "dvc.yaml").read_text()
    deps = "deps: [make.py]\n"
    assert pipeline.count(deps) == 1
    (checkout / "dvc.yaml").write_text(pipeline.replace(deps, "deps: [make.py, gear/code.py]\n"))
    dvc(checkout, "repro", "-q", "shards")
    commit(checkout, "more code")
    meddle = f'import yaml\npathlib.Path("{code}").write_text("size = 2\\n")\n'
    before = edit(checkout, "make.py", "import yaml\n", meddle)
    done = gear(checkout, "accept-code", "--unproved", "joint", "evaluate")
    assert done.returncode == 2
    assert "gear/code.py was changed meanwhile: commit it" in done.stderr
    assert (checkout / "dvc.lock").read_bytes() == before
