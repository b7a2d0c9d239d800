"""Costs of outputs: found again by what dvc.lock says, kept in the checkout that started an experiment, never in a stage's way."""

from __future__ import annotations

from pathlib import Path

import pytest

from gear.runs import costs
from gear.runs.revision import content_md5


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("DVC_STAGE", "DVC_ROOT", "RANK"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "dvc.yaml").write_text(
        "stages: {joint: {cmd: x, outs: [models], metrics: [{m.json: {cache: false}}]}}"
    )
    (tmp_path / "params.yaml").write_text("run: {seed: 0}")
    (tmp_path / "models").mkdir()
    (tmp_path / "models/weights").write_bytes(b"w")
    (tmp_path / "m.json").write_text("{}")
    return tmp_path


def locked(folder: Path) -> dict[str, str]:
    return {"models": content_md5(folder / "models"), "m.json": content_md5(folder / "m.json")}


def test_a_stopped_run_counts_with_the_one_that_goes_on(folder: Path) -> None:
    costs.keep("joint", 4.0, finished=False)
    costs.keep("joint", 3.0, finished=False)
    assert costs.find(folder, "joint", locked(folder)) is None
    costs.keep("joint", 2.0, finished=True)
    record = costs.find(folder, "joint", locked(folder))
    assert record is not None
    assert record["seconds"] == 9.0
    assert record["hardware"] == costs.hardware_class()
    (folder / "models/weights").write_bytes(b"other")
    assert costs.find(folder, "joint", locked(folder)) is None
    costs.keep("joint", 2.0, finished=True)
    assert (costs.find(folder, "joint", locked(folder)) or {})["seconds"] == 2.0


def test_an_experiment_keeps_its_record_where_it_was_started(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = folder / "home"
    monkeypatch.setenv("DVC_STAGE", "joint")
    monkeypatch.setenv("DVC_ROOT", str(home))
    costs.keep("joint", 2.0, finished=True)
    assert costs.find(home, "joint", locked(folder))
    assert not (folder / ".gear").exists()


def test_only_the_lead_rank_records_and_nothing_fails_a_stage(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    costs.keep("joint", 2.0, finished=True)
    assert not (folder / ".gear").exists()
    monkeypatch.setenv("RANK", "0")
    (folder / "dvc.yaml").write_text("stages: [")
    costs.keep("joint", 2.0, finished=True)
    (folder / "dvc.yaml").unlink()
    costs.keep("joint", 2.0, finished=True)
    assert costs.find(folder, "joint", locked(folder)) is None
