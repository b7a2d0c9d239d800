"""Test the dataset flow on a real server: its verdict in the UI, quarantine, untouched data."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.prefect_server import post
from tests.support.settings import tiny_settings, write_params

RUN = "import sys; from flows.dataset import dataset; dataset(root=sys.argv[1])"


def images(folder: Path, seed: int, light: float) -> str:
    random = np.random.default_rng(seed)
    for category in ("cats", "do<b>gs"):
        (folder / category).mkdir(parents=True)
        for number in range(30):
            pixels = light * random.normal(128, 30, (20, 20, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(
                folder / category / f"{number}.png"
            )
    return str(folder)


def finish(server: dict[str, str], folder: Path, root: str) -> tuple[int, str, dict[str, Any]]:
    """Run the flow; return its exit code, its output and its artifacts by key."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, root],
        cwd=folder,
        env=server,
        capture_output=True,
        text=True,
        timeout=180,
    )
    run = post(server, "flow_runs/filter", {"sort": "START_TIME_DESC", "limit": 1})[0]
    kept = post(server, "artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run["id"]]}}})
    return (
        done.returncode,
        done.stdout + done.stderr,
        {a["key"]: a["data"] for a in kept if a["key"]},
    )  # a failed run's result has no key


@pytest.mark.slow
def test_verdicts_are_published_and_nothing_of_the_pipeline_is_touched(
    server: dict[str, str], tmp_path: Path
) -> None:
    checkout = tmp_path / "c"
    (checkout / "data/shards").mkdir(parents=True)
    (checkout / "data/shards/manifest.json").write_text("the pipeline's")
    write_params(checkout, tiny_settings(data={"size": 16}, host={"workers": 1}))

    code, output, shown = finish(server, checkout, images(tmp_path / "one", 1, 1.0))
    assert code == 0, output
    assert "accepted" in output, output
    assert "nothing to compare with" in shown["dataset-verdict"], output
    assert "dataset-drift" not in shown

    code, output, shown = finish(server, checkout, images(tmp_path / "dark", 2, 0.5))
    assert code != 0, output
    assert "StageStopped" in output, output
    rows = {row["column"]: row for row in json.loads(shown["dataset-drift"])}
    assert rows["brightness"]["drifted"] == "yes"
    assert rows["class"]["drifted"] == ""
    assert "quarantined" in shown["dataset-verdict"]
    assert "brightness drifted" in shown["dataset-verdict"]
    assert "do<b>gs" in rows["class"]["change"] or "cats" in rows["class"]["change"]
    assert all(row["change"].startswith("`") for row in rows.values() if "<" in row["change"])
    assert "drift/dataset-" in shown["dataset-drift-page"]

    (tmp_path / "dark/cats/3.png").write_bytes(b"not an image")
    code, output, shown = finish(server, checkout, str(tmp_path / "dark"))
    assert code != 0
    assert "StageBadInput" in output
    assert "cats/3.png" in shown["dataset-verdict"]
    code, output, shown = finish(server, checkout, str(tmp_path / "nowhere"))
    assert code != 0, "a verdict of another run"
    assert "is not a folder" in output, "a verdict of another run"
    assert not shown, "a verdict of another run"

    assert (checkout / "data/shards/manifest.json").read_text() == "the pipeline's"
    assert sorted(p.name for p in (checkout / "data").iterdir()) == [
        "quarantine",
        "shards",
        "versions",
    ]
