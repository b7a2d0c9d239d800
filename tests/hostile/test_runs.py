"""Recorded runs, states and servers that lead elsewhere: nothing outside is written, deleted or shown."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from flows.pipeline import check_overrides
from gear.core.errors import InputError
from gear.training import checkpoint_manager, engine
from gear.training.states import list_states, read_tag
from tests.support.commands import ENV, run_gear
from tests.support.hostile import refused, snapshot
from tests.support.repo import REPO
from tests.support.settings import tiny_settings, write_params
from tests.support.toys import empty_checkout, free_port
from tests.support.wait import wait_until


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
    """A checkout with one committed stage, to copy."""
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
    """A checkout with one committed stage, and a precious folder beside it."""
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
    """A list of a folder in the cache that names files elsewhere."""
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


class Evil:
    """Unpickling it would make a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (self.folder,)


def test_deepspeeds_files_are_read_without_code(tmp_path: Path) -> None:
    from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine

    reader = engine.tensors_only(TorchCheckpointEngine())
    torch.save({"a": torch.ones(2), "b": Evil(tmp_path / "ran")}, tmp_path / "evil.pt")
    with pytest.raises(Exception, match="Weights only load failed"):
        reader.load(str(tmp_path / "evil.pt"))
    assert not (tmp_path / "ran").exists()
    torch.save({"a": torch.ones(2)}, tmp_path / "good.pt")
    assert torch.equal(reader.load(str(tmp_path / "good.pt"))["a"], torch.ones(2))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a warm tokenizer and its state."""
    folder = tmp_path_factory.mktemp("trained")
    write_params(folder, tiny_settings(host={"workers": 1}))
    for stage in ("ingest", "validate", "tokenizer"):
        done = run_gear(folder, stage)
        assert done.returncode == 0, done.stderr
    return folder


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def code(file: Path) -> None:
    torch.save({"step": 3, "module": Evil(file.parents[4] / "ran")}, file)


def junk(file: Path) -> None:
    file.write_bytes(b"\x80junk" * 50)


@pytest.mark.parametrize(
    ("which", "spoil"),
    [
        pytest.param("state.pt", cut, marks=pytest.mark.slow),
        ("state.pt", code),
        ("tokenizer/mp_rank*", code),
        ("tokenizer/mp_rank*", Path.unlink),
        pytest.param("tokenizer/zero*", code, marks=pytest.mark.slow),
        ("tokenizer/zero*", empty),
        pytest.param("latest", empty, marks=pytest.mark.slow),
        ("latest", junk),
    ],
)
def test_a_damaged_state_is_one_line(
    trained: Path, tmp_path: Path, which: str, spoil: Callable[[Path], Any]
) -> None:
    folder = tmp_path / "c"
    shutil.copytree(trained, folder)
    (latest,) = folder.glob(".gear/tokenizer/*/latest")
    where = latest.parent / latest.read_text()
    (file,) = [latest] if which == "latest" else where.glob(which)
    spoil(file)
    before = snapshot(latest.parent)
    done = run_gear(folder, "tokenizer")
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("gear tokenizer: ")]
    assert len(lines) == 1
    assert "Traceback" not in done.stderr
    assert "weights_only=False" not in done.stderr
    assert "to start anew" in lines[0]
    assert not (folder / "ran").exists()
    after = snapshot(latest.parent)
    for name in ("lock", "settings.json"):  # of the process, not of the state
        before.pop(name, None), after.pop(name, None)
    assert after == before
    assert (folder / "data/models/tokenizer/tokenizer/model.safetensors").exists()


def test_states_with_damaged_descriptions_are_listed_or_left_out(tmp_path: Path) -> None:
    for number, content in enumerate([b"", b"\xff", b"[" * 10_000, b"[]", b'{"step": "x"}']):
        folder = tmp_path / f"joint/{number}"
        folder.mkdir(parents=True)
        (folder / "latest").write_text("step-3")
        (folder / "description.json").write_bytes(content)
    (tmp_path / "joint/bad").mkdir()
    (tmp_path / "joint/bad/latest").write_bytes(b"../../../etc\n")
    with pytest.raises(InputError, match="damaged"):
        read_tag(tmp_path / "joint/bad")
    assert list_states(tmp_path, {}) == []


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


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a reports server, in a folder with a secret beside reports/."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "reports").mkdir()
    (folder / "reports/index.html").write_text("<p>report</p>")
    (folder / "secret.txt").write_text("secret")
    (folder / "reports/link.txt").symlink_to(folder / "secret.txt")
    (folder / "reports/up").symlink_to(folder)
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.reports_server", "127.0.0.1", str(port)],
        cwd=folder,
        env=ENV,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        assert wait_until(lambda: status(url + "/index.html") == 200, 20)
        yield url
    finally:
        process.kill()
        process.wait()


def status(url: str, **headers: str) -> int:
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=5
        ) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


@pytest.mark.parametrize(
    "path", ["/link.txt", "/up/secret.txt", "/up/", "/../secret.txt", "/%2e%2e/secret.txt"]
)
def test_the_reports_server_follows_no_link_outwards(reports: str, path: str) -> None:
    assert status(reports + path) == 404


def test_the_reports_server_answers_no_other_host(reports: str) -> None:
    assert status(f"{reports}/index.html", Host="evil.example") == 403
    assert status(f"{reports}/index.html", Host="localhost:1") == 200


def test_the_gates_page_shows_names_as_text_and_loads_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pandas as pd

    from gear.ingest.config import DataConfig
    from gear.validation.expectations import validate

    key = '<img src=x onerror="alert(1)">'
    columns: dict[str, Any] = {
        "key": [key, key, "b"],
        "label": [0, 0, 0],
        "caption": ["<script>alert(2)</script>", "a", "b"],
        "sha256": ["1", "2", "3"],
        "width": 16,
        "height": 16,
        "split": ["train", "train", "val"],
        "caption_length": 1,
        "sha_ok": True,
        "decodable": True,
        "caption_is_text": True,
        "key_in_both_splits": False,
        "image_in_both_splits": False,
        "looks_like_training": [None, None, False],
    }
    manifest = {"train": 2, "val": 1, "size": 16, "classes": ["a"]}
    monkeypatch.chdir(tmp_path)
    records = validate(pd.DataFrame(columns), manifest, DataConfig(), tmp_path / "docs")
    assert any(not record["success"] for record in records)
    pages = [page.read_text() for page in (tmp_path / "docs").rglob("*.html")]
    assert pages
    for page in pages:
        assert "<script" not in page
        assert 'onerror="alert' not in page
        assert 'src="http' not in page
        assert 'rel="stylesheet" href="http' not in page
        assert "Content-Security-Policy" in page
    assert any("&lt;img src=x" in page for page in pages)


def test_reasons_of_damaged_states_leave_pytorchs_advice_out() -> None:
    error = RuntimeError(
        "bad file\nRe-running `torch.load` with `weights_only` set to `False` will"
    )
    assert "Re-running" not in str(checkpoint_manager._damaged(REPO / "a/b/c", error))
