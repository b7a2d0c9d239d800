"""Test that `gear publish` writes what `gear.load_generator` loads, with the run's metrics."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants

import gear
from gear.cli import main
from gear.commands import publish
from gear.runs import revision
from tests.unit.test_pretrained import checkpoint, same

__all__ = ["checkpoint"]


def test_the_card_has_the_run_s_data_and_metrics(
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(checkpoint, "data/models/generator")
    Path("data/shards").mkdir()
    manifest = {"train": 9, "val": 2, "size": 32, "classes": ["dog"], "source": "folder"}
    Path("data/shards/manifest.json").write_text(json.dumps(manifest | {"attribution": "by me"}))
    Path("reports").mkdir()
    protocol = {"extractor": "efficientnet-lite0/b10", "n": 64, "resize": "bicubic"}
    records = {"fd": {"value": 12.345678, "protocol": protocol}}
    Path("reports/protocols.json").write_text(json.dumps(records))
    assert main(["publish", "out"]) == 0
    assert "gear.load_generator('out')" in capsys.readouterr().out
    card = Path("out/README.md").read_text()
    assert "9 images of the source `folder`. by me" in card
    assert "| fd | 12.346 | extractor efficientnet-lite0/b10, n 64, resize bicubic |" in card
    assert 'gear.load_generator("out")' in card
    own, published = (gear.load_generator(f) for f in ("data/models/generator", "out"))
    assert same(own.sample(["dog"])[0], published.sample(["dog"])[0])
    assert main(["publish", "out"]) == 2
    assert "out: it holds files" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path / "out")
    assert main(["publish", "."]) == 2
    assert "name another folder than the current one" in capsys.readouterr().err


def test_another_checkpoint_gets_no_numbers_of_this_run(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("reports").mkdir()
    Path("reports/protocols.json").write_text('{"fd": {"value": 1.0, "protocol": {}}}')
    assert main(["publish", "out", "--checkpoint", str(checkpoint)]) == 0
    assert "Metrics" not in Path("out/README.md").read_text()


def test_a_folder_that_cannot_be_uploaded_is_whole(
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    words = ["publish", "out", "--checkpoint", str(checkpoint), "--hub"]
    assert main([*words, "no-owner"]) == 2
    assert not Path("out").exists()
    assert main([*words, "somebody/gear"]) == 2
    said = capsys.readouterr().err
    assert "hf upload somebody/gear out" in said
    assert gear.load_generator("out").class_names == gear.load_generator(checkpoint).class_names
    assert 'gear.load_generator("somebody/gear")' in Path("out/README.md").read_text()


def test_metrics_of_older_models_are_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("reports").mkdir()
    Path("reports/protocols.json").write_text('{"fd": {"value": 1.0, "protocol": {}}}')
    assert publish.metric_rows()[0]
    monkeypatch.setattr(
        revision, "changed_inputs", lambda stage, since_its_run: f"data/models of {stage}"
    )
    rows, remark = publish.metric_rows()
    assert rows == []
    assert "data/models of evaluate is newer" in remark
