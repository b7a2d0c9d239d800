"""Test that recorded runs and flow parameters cannot write or delete outside the checkout."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.pipeline import check_overrides
from gear.core.errors import InputError
from gear.runs.revision import changed_inputs, content_md5
from tests.support.commands import ENV, run_gear
from tests.support.hostile import refused
from tests.support.settings import write_params
from tests.support.toys import empty_checkout


def git(folder: Path, *words: str) -> None:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.com"]
    subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True)


def dvc(folder: Path, *words: str) -> None:
    env = {**ENV, "DVC_NO_ANALYTICS": "1"}
    subprocess.run(
        [sys.executable, "-m", "dvc", *words], cwd=folder, check=True, env=env, capture_output=True
    )


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkout with one committed stage; tests copy it."""
    folder = tmp_path_factory.mktemp("recorded") / "c"
    shutil.copytree(empty_checkout(), folder)
    stage = {
        "cmd": "mkdir -p data/made && echo one > data/made/one.txt",
        "outs": ["data/made"],
    }
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"make": stage}}))
    dvc(folder, "repro", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "run")
    return folder


@pytest.fixture
def run(recorded: Path, tmp_path: Path) -> Path:
    """Return a copy of that checkout, next to a folder that must not be touched."""
    folder = tmp_path / "c"
    shutil.copytree(recorded, folder, symlinks=True)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/thesis.txt").write_text("years of work")
    return folder


def verified(run: Path, *words: str) -> subprocess.CompletedProcess[str]:
    done = run_gear(run, "verify", "HEAD", *words, timeout=120)
    assert (run.parent / "precious/thesis.txt").read_text() == "years of work"
    assert sorted(p.name for p in run.parent.iterdir()) == ["c", "precious"]
    return done


def edit(run: Path, name: str, change: Callable[[dict[str, Any]], Any]) -> None:
    values = yaml.safe_load((run / name).read_text())
    change(values)
    (run / name).write_text(yaml.safe_dump(values))
    git(run, "commit", "-q", "-am", "hostile")


@pytest.mark.parametrize("name", ["", "HEAD:dvc.yaml", "HEAD^{tree}", "x" * 5000])
def test_a_revision_that_is_no_commit_is_refused(
    run: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(run)
    for words in (("compare", name, "HEAD"), ("verify", name, "--stages")):
        refused(capsys, *words, says=("no experiment or revision",))


def test_without_git_a_run_is_not_verified(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(run)
    monkeypatch.setenv("PATH", str(run))
    refused(capsys, "verify", "--stages", says=("git is not on PATH",))


def test_an_honest_run_is_made_again(run: Path) -> None:
    done = verified(run)
    assert done.returncode == 0, done.stderr
    assert "made again, same bytes: make" in done.stdout


@pytest.mark.parametrize("where", ["ABSOLUTE", "../precious", "data/../../precious", ".git/hooks"])
@pytest.mark.parametrize("file", ["dvc.lock", "dvc.yaml"])
def test_outputs_outside_the_checkout_are_refused(run: Path, where: str, file: str) -> None:
    path = where.replace("ABSOLUTE", str(run.parent / "precious"))

    def change(values: dict[str, Any]) -> None:
        if file == "dvc.lock":
            values["stages"]["make"]["outs"][0]["path"] = path
        else:
            values["stages"]["make"]["outs"] = [path]

    edit(run, file, change)
    done = verified(run)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.splitlines()[-1].startswith("gear verify: ")
    assert path in done.stderr
    assert "not in the checkout" in done.stderr


def test_a_stage_that_works_elsewhere_is_refused(run: Path) -> None:
    def change(values: dict[str, Any]) -> None:
        values["stages"]["make"] |= {"wdir": "..", "outs": ["precious"]}

    edit(run, "dvc.yaml", change)
    done = verified(run)
    assert done.returncode == 2
    assert "'precious', which is not in the checkout" in done.stderr


def test_an_output_behind_a_link_outwards_is_refused(run: Path) -> None:
    shutil.rmtree(run / "data")
    (run / "data").symlink_to(run.parent)

    def change(values: dict[str, Any]) -> None:
        values["stages"]["make"]["outs"][0]["path"] = "data/precious"

    values = yaml.safe_load((run / "dvc.yaml").read_text())
    values["stages"]["make"]["outs"] = ["data/precious"]
    (run / "dvc.yaml").write_text(yaml.safe_dump(values))
    git(run, "add", "-A", "-f", "data")
    edit(run, "dvc.lock", change)
    done = verified(run)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "behind a link out of the checkout" in done.stderr


@pytest.mark.parametrize("name", ["../precious/thesis.txt", "/etc/passwd", "a/../../x"])
def test_a_listing_that_leads_outside_is_refused(run: Path, name: str) -> None:
    """Test a .dir file of DVC's cache that names files outside of its folder."""
    (one,) = [p for p in (run / ".dvc/cache").rglob("*") if p.is_file() and p.suffix != ".dir"]
    md5 = one.parent.name + one.name
    listing = json.dumps([{"md5": md5, "relpath": name}]).encode()
    digest = hashlib.md5(listing).hexdigest()
    place = run / f".dvc/cache/files/md5/{digest[:2]}/{digest[2:]}.dir"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(listing)

    def lock(values: dict[str, Any]) -> None:
        stage = values["stages"]["make"]
        stage["outs"][0]["md5"] = f"{digest}.dir"
        values["stages"]["use"] = {
            "cmd": "true",
            "deps": [{"path": "data/made", "hash": "md5", "md5": f"{digest}.dir"}],
        }

    def pipeline(values: dict[str, Any]) -> None:
        values["stages"]["use"] = {"cmd": "true", "deps": ["data/made"]}

    edit(run, "dvc.yaml", pipeline)
    edit(run, "dvc.lock", lock)
    done = verified(run, "--stages", "use")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "which is not in its folder" in done.stderr


@pytest.mark.parametrize(
    "content",
    [
        b"[",
        b"\xff\xfe",
        b"stages: []",
        b"stages: {make: 3}",
        b"stages: {make: {outs: [3]}}",
        b"stages: {make: {outs: [{md5: x}]}}",
        b"stages: {make: {outs: [{path: a, md5: ../../../etc}], cmd: 'true'}}",
        b"stages: {make: {params: [1]}}",
        b"a: &a 1\nb: *a",
    ],
)
def test_a_damaged_lock_is_one_line(
    run: Path,
    content: bytes,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(run)
    (run / "dvc.lock").write_bytes(content)
    git(run, "commit", "-q", "-am", "hostile")
    refused(capsys, "verify", "HEAD")
    refused(capsys, "compare", "HEAD", "workspace")


@pytest.mark.parametrize(
    "override",
    [
        "/tmp/x.yaml:a=b",
        "params.yaml:joint.steps=3",
        "+joint.steps=3",
        "~joint.steps",
        "joint.steps",
        "joint.steps=many",
        "joint.steps=3\nrun: 4",
        "joint.nothing=3",
        "nothing.steps=3",
        "joint.recipe=best",
        "joint.steps=[1",
        "joint.steps=!!python/none x",
        "joint.steps=true",
        "-S=3",
    ],
)
def test_overrides_are_known_settings_of_the_right_type(tmp_path: Path, override: str) -> None:
    write_params(tmp_path)
    before = (tmp_path / "params.yaml").read_bytes()
    with pytest.raises(InputError) as refused:
        check_overrides(tmp_path, ["joint.steps=5", override])
    assert "\n" not in str(refused.value)
    assert (tmp_path / "params.yaml").read_bytes() == before
    check_overrides(tmp_path, ["joint.steps=5", "joint.temperature={support: 4}"])


def test_an_input_that_was_edited_is_found(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def use(values: dict[str, Any]) -> None:
        values["stages"]["use"] = {"cmd": "true", "deps": ["data/made"]}

    edit(run, "dvc.yaml", use)
    dvc(run, "repro", "-q")
    monkeypatch.chdir(run)
    assert changed_inputs("use") == ""
    (run / "data/made/one.txt").unlink()
    (run / "data/made/one.txt").write_text("two")
    assert changed_inputs("use") == "data/made"
    assert changed_inputs("use", since_its_run=True) == "data/made"
    assert changed_inputs("make") == ""
    lock = yaml.safe_load((run / "dvc.lock").read_text())  # as if `make` alone had run since
    (made,) = (out for out in lock["stages"]["make"]["outs"] if out["path"] == "data/made")
    made["md5"] = content_md5(run, "data/made")
    (run / "dvc.lock").write_text(yaml.safe_dump(lock))
    assert changed_inputs("use") == ""
    assert changed_inputs("use", since_its_run=True) == "data/made"
