"""Test that costs of stages are found by dvc.lock, in the checkout that started a run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from dvc.repo import Repo

from gear.runs import costs
from gear.runs.revision import Locked, find_revision

PIPELINE = """
stages:
  data: {cmd: echo 1 > data.txt, outs: [data.txt]}
  joint:
    cmd: echo 1 > model.txt
    deps: [data.txt, code]
    params: [run.seed, other.toml: [pins.torch]]
    outs: [model.txt]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a DVC checkout whose stages have run."""
    monkeypatch.chdir(tmp_path)
    for name in ("DVC_STAGE", "DVC_ROOT", "RANK"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "dvc.yaml").write_text(PIPELINE)
    (tmp_path / "params.yaml").write_text("run: {seed: 0}")
    (tmp_path / "other.toml").write_text("[pins]\ntorch = '2.14'")
    (tmp_path / "code").mkdir()
    (tmp_path / "code/model.py").write_text("")
    with Repo.init(".", no_scm=True) as repo:
        repo.reproduce()
    return tmp_path


def locked(folder: Path) -> Locked:
    return find_revision("workspace", folder).lock()["joint"]


def test_stopped_seconds_count_with_those_of_the_next_run(folder: Path) -> None:
    costs.keep("joint", 4.0, finished=False)
    costs.keep("joint", 3.0, finished=False)
    assert costs.find(folder, locked(folder)) is None
    costs.keep("joint", 2.0, finished=True)
    record = costs.find(folder, locked(folder))
    assert record is not None
    assert record["seconds"] == 9.0
    assert record["hardware"] == costs.hardware_class()
    assert record["machine"]["threads"] >= 1
    costs.keep("joint", 2.0, finished=True)
    assert (costs.find(folder, locked(folder)) or {})["seconds"] == 2.0


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("code/model.py", "changed"),
        ("params.yaml", "run: {seed: 1}"),
        ("other.toml", "[pins]\ntorch = '2.15'"),
    ],
)
def test_other_inputs_have_another_record(folder: Path, file: str, text: str) -> None:
    (folder / file).write_text(text)
    costs.keep("joint", 2.0, finished=True)
    assert costs.find(folder, locked(folder)) is None
    with Repo() as repo:
        repo.reproduce()
    assert (costs.find(folder, locked(folder)) or {})["seconds"] == 2.0


def test_outputs_are_not_read(folder: Path) -> None:
    (folder / "model.txt").unlink()
    costs.keep("joint", 2.0, finished=True)
    assert costs.find(folder, locked(folder))


def test_an_experiment_keeps_its_record_where_it_was_started(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = folder / "home"
    monkeypatch.setenv("DVC_STAGE", "joint")
    monkeypatch.setenv("DVC_ROOT", str(home))
    costs.keep("joint", 2.0, finished=True)
    assert costs.find(home, locked(folder))
    assert not (folder / ".gear").exists()


def test_a_record_is_carried_over_to_accepted_code(folder: Path) -> None:
    costs.keep("joint", 3.0, finished=True)
    before = locked(folder)
    after = replace(before, deps={**before.deps, "code": "0" * 32})
    assert costs.find(folder, after) is None
    costs.carry_over(folder, before, after)
    assert costs.find(folder, after) == costs.find(folder, before)
    costs.keep("joint", 9.0, finished=True)
    costs.carry_over(folder, before, after)
    assert (costs.find(folder, after) or {})["seconds"] == 3.0, "a record is not overwritten"


def test_a_report_that_is_running_has_its_ranks_noted(folder: Path) -> None:
    pipeline = (
        PIPELINE + "  report: {cmd: echo 1 > page.txt, deps: [model.txt], outs: [page.txt]}\n"
    )
    (folder / "dvc.yaml").write_text(pipeline)
    for stage in ("joint", "report"):
        costs.keep(stage, 1.0, finished=True)
    (folder / "provenance.json").write_text("{}")
    costs.note_ranks(folder / "provenance.json")
    assert json.loads((folder / "provenance.json").read_text()) == {
        "ranks": {"joint": 1, "report": 1}
    }


def test_only_rank_zero_records(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    costs.keep("joint", 2.0, finished=True)
    assert not (folder / ".gear").exists()


@pytest.mark.parametrize("text", [None, "stages: [", "stages: {}"])
def test_a_missing_record_fails_no_stage(folder: Path, text: str | None) -> None:
    (folder / "dvc.yaml").unlink()
    if text is not None:
        (folder / "dvc.yaml").write_text(text)
    costs.keep("joint", 2.0, finished=True)
    assert costs.find(folder, locked(folder)) is None


def test_outside_dvc_nothing_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    costs.keep("joint", 2.0, finished=True)
    assert not list(tmp_path.iterdir())
