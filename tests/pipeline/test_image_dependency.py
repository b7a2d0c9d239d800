"""Test that ingest depends on its images: a changed folder makes the stage run again."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.support.checkout import checkout, run
from tests.support.datasets import picture
from tests.support.settings import edit_params


def changed_stages(folder: Path) -> set[str]:
    return set(json.loads(run(folder, sys.executable, "-m", "dvc", "status", "--json", "ingest")))


def test_a_new_image_in_the_root_makes_ingest_run_again(tmp_path: Path) -> None:
    root = tmp_path / "images"
    for number in range(8):
        file = root / ("cat", "dog")[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture(number))
    folder = checkout(tmp_path / "checkout")
    data = {"source": "folder", "root": str(root), "val_share": 0.25, "limit": 0}
    edit_params(folder, data=data)
    run(folder, sys.executable, "-m", "dvc", "repro", "ingest")
    assert changed_stages(folder) == set()
    edit_params(folder, host={"workers": 3, "cluster": "tcp://127.0.0.1:1"})
    again = run(folder, sys.executable, "-m", "dvc", "repro", "ingest")
    assert "Stage 'ingest' didn't change, skipping" in again
    edit_params(folder, host={"cluster": ""})
    (root / "cat" / "new.png").write_bytes(picture(99))
    assert changed_stages(folder) == {"ingest"}
    run(folder, sys.executable, "-m", "dvc", "repro", "ingest")
    manifest = json.loads((folder / "data/shards/manifest.json").read_text())
    assert manifest["train"] + manifest["val"] == 9
    assert changed_stages(folder) == set()
