"""Test that a dataset version is accepted if similar to the last one, and else quarantined."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from gear import params as config
from gear import paths
from gear.cli import main
from gear.validation.dataset_versions import ACCEPTED
from tests.support.repo import REPO
from tests.support.settings import tiny_settings, write_params

HOSTILE = "a<script>alert(1)"


@pytest.fixture(autouse=True)
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Enter a checkout with shards, which no check may touch."""
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path, tiny_settings(data={"size": 16}, host={"workers": 1}))
    (paths.SHARDS / "train").mkdir(parents=True)
    (paths.SHARDS / "train" / "00000.parquet").write_bytes(b"the pipeline's")


def images(name: str, seed: int, counts: dict[str, int] | None = None, light: float = 1.0) -> str:
    """Write a folder of noisy images, with a number per class; return its name."""
    random = np.random.default_rng(seed)
    for category, count in (counts or {HOSTILE: 48, "dogs": 48}).items():
        (folder := Path(name) / category).mkdir(parents=True)
        for number in range(count):
            pixels = random.normal(128, 20) + random.normal(0, 30, (20, 24, 3))
            Image.fromarray((light * pixels).clip(0, 255).astype(np.uint8)).save(
                folder / f"{number}.png"
            )
    return name


def verdict() -> dict[str, Any]:
    return json.loads(paths.DATASET_VERDICT.read_text())


def accepted() -> str:
    return str(pd.read_parquet(ACCEPTED).attrs["version"])


def drifted() -> set[str]:
    return {c["column"] for c in verdict()["columns"] if c["drifted"]}


def test_like_is_accepted_and_unlike_is_put_aside_with_its_reasons(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["dataset", "--root", images("first", 1)]) == 0
    assert "nothing to compare with" in verdict()["reasons"][0]
    assert "data.root: first" in capsys.readouterr().out
    first = verdict()["version"]
    assert accepted() == first
    assert not paths.INCOMING.exists()

    assert main(["dataset", "--root", images("again", 2)]) == 0
    second = verdict()
    assert second["verdict"] == "accepted"
    assert second["compared_with"] == first
    assert not drifted()
    assert {"class", "caption_length", "width", "height", "brightness", "feature_1"} <= {
        c["column"] for c in second["columns"]
    }
    page = Path(second["page"]).read_text()
    assert "a&lt;script&gt;" in page
    assert HOSTILE not in page

    assert main(["dataset", "--root", images("dark", 3, light=0.6)]) == 1
    assert "brightness" in drifted()
    assert "class" not in drifted()
    assert "brightness drifted by" in capsys.readouterr().err
    assert accepted() == second["version"]
    aside = paths.QUARANTINE / verdict()["version"]
    assert json.loads((aside / "verdict.json").read_text()) == verdict()
    assert list((aside / "train").glob("*.parquet"))
    dark = verdict()["version"]

    assert main(["dataset", "--root", images("few", 4, {HOSTILE: 12, "dogs": 84})]) == 1
    assert "class" in drifted()
    assert "brightness" not in drifted()
    assert f"'{HOSTILE}'" in verdict()["reasons"][0] or "'dogs'" in verdict()["reasons"][0]

    assert main(["dataset", "--accept", dark]) == 0
    assert accepted() == dark
    assert not (paths.QUARANTINE / dark).exists()
    assert main(["dataset", "--root", "dark"]) == 0
    assert verdict()["verdict"] == "unchanged"
    assert [p for p in paths.SHARDS.rglob("*") if p.is_file()] == [
        paths.SHARDS / "train" / "00000.parquet"
    ]
    assert (paths.SHARDS / "train" / "00000.parquet").read_bytes() == b"the pipeline's"
    assert not paths.VALIDATION_METRICS.exists()
    assert not paths.DATA_DOCS.exists()


def test_a_broken_version_is_put_aside_and_names_its_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = images("bad", 1, {"cats": 4, "dogs": 4})
    (Path(root) / "cats" / "1.png").write_bytes(b"not an image")
    assert main(["dataset", "--root", root]) == 2
    assert "cats/1.png" in capsys.readouterr().err
    assert verdict()["verdict"] == "quarantined"
    kept = json.loads((paths.QUARANTINE / verdict()["version"] / "rejects.json").read_text())
    assert [r["file"] for r in kept] == ["cats/1.png"]

    # the class `_` has a blank as caption, which matters if captions are the condition
    captions = {"size": 16, "condition": "caption"}
    write_params(tmp_path, tiny_settings(data=captions, host={"workers": 1}))
    assert main(["dataset", "--root", images("blank", 1, {"_": 3, "dogs": 4})]) == 2
    line = capsys.readouterr().err
    assert "caption_length" in line
    assert "'train/_/0.png'" in line
    assert line.count("\n") == 1
    aside = verdict()["version"]
    assert list((paths.QUARANTINE / aside / "train").glob("*.parquet"))
    assert not ACCEPTED.exists()
    assert main(["dataset", "--accept", aside]) == 2
    assert "mended at its source" in capsys.readouterr().err

    assert main(["dataset", "--root", "nowhere"]) == 2
    assert "nowhere is not a folder" in capsys.readouterr().err


def test_the_same_images_make_the_same_version_byte_by_byte() -> None:
    images("one", 1, {"cats": 4, "dogs": 4})
    os.rename("one", "two")
    kept = []
    for root in ("two", images("one", 1, {"cats": 4, "dogs": 4})):
        assert main(["dataset", "--root", root]) == 0
        kept.append(
            {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in paths.VERSIONS.glob("*")}
        )
        ACCEPTED.unlink()
    assert kept[0] == kept[1]


def test_a_damaged_or_unlike_last_version_gives_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = images("one", 1, {"cats": 4, "dogs": 4})
    assert main(["dataset", "--root", root]) == 0
    whole = ACCEPTED.read_bytes()
    ACCEPTED.write_bytes(whole[:-1])
    other = images("two", 2, {"cats": 4, "dogs": 4})
    assert main(["dataset", "--root", other]) == 2
    assert f"{ACCEPTED}: damaged: restore it, or delete {ACCEPTED}" in capsys.readouterr().err
    ACCEPTED.write_bytes(whole)
    Path("params.yaml").write_text(Path("params.yaml").read_text().replace("size: 16", "size: 32"))
    assert main(["dataset", "--root", other]) == 2
    assert "data.size is 32, the accepted version" in capsys.readouterr().err


def test_two_checks_at_once_do_not_meet() -> None:
    code = (
        "import time; from gear.validation.dataset_versions import _incoming\n"
        "with _incoming():\n print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(REPO)},
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        try:
            with pytest.raises(config.InputError, match="another check"):
                version_check()
        finally:
            holder.kill()


def version_check() -> None:
    from gear.validation.dataset_versions import check

    check(config.load().data, "nowhere", 1, 0)
