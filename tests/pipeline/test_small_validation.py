"""Test all stages with one validation image: no number is NaN, and what is missing has a reason."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from gear import params, paths
from gear.cli import STAGES
from tests.support.datasets import picture
from tests.support.settings import tiny_settings, write_params


def strict(file: Path) -> Any:
    """Return the content of a JSON file without NaN or Infinity, which are not JSON."""

    def refuse(name: str) -> None:
        raise ValueError(f"{file}: {name}")

    return json.loads(file.read_text(), parse_constant=refuse)


@pytest.mark.parametrize("condition", ["class", "caption"])
def test_one_validation_image_is_enough_for_every_stage(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    condition: str,
) -> None:
    (tmp_path / "root").mkdir()
    lines = []
    for number in range(24):
        (tmp_path / "root" / f"{number}.png").write_bytes(picture(number))
        lines.append(json.dumps({"file_name": f"{number}.png", "text": f"picture {number}"}))
    (tmp_path / "root" / "metadata.jsonl").write_text("\n".join(lines))
    data = {"source": "folder", "root": "root", "limit": 0, "val_share": 0.01}
    chosen = tiny_settings(
        host={"workers": 1},
        data=data | {"condition": condition},
        tokenizer={"steps": 2},
        gan={"start_step": 1},
        joint={"steps": 2, "fd_every": 2, "fd_n": 8},
        generator={"steps": 2},
        sample={"n": 8},
        evaluate={"guidances": (2.0,), "guidance_n": 8},
    )
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path, chosen)
    for stage in STAGES:
        importlib.import_module(f"gear.stages.{stage}").run(params.load())
    assert strict(paths.SHARDS / "manifest.json")["val"] == 1
    for file in paths.REPORTS.glob("*.json"):
        strict(file)
    details = strict(paths.REPORTS / "codebook-details.json")
    reasons = {row["probe"]["protocol"]["absent"] for row in details["representation"]}
    assert reasons == {"it needs two images, to fit on the one and to test on the other"}
    records = strict(paths.REPORTS / "protocols.json")
    absent = {name for name, record in records.items() if record["value"] is None}
    others = "coverage_floor" if condition == "class" else "retrieval_own_10%"
    assert absent == {"fd_floor", "recall_floor", others}
    printed = capsys.readouterr().out
    page = paths.PAGE.read_text()
    assert "probe of generator's tap" in printed
    for name in absent:
        assert f"{name} (it needs" in page
        assert f"{name:18s} not computed: it needs" in printed
