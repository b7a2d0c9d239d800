"""Test that the tiny pipeline in portable mode reproduces the outputs of a golden dvc.lock.

They are bitwise equal on every x86-64 processor with AVX2.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

from gear import params
from tests.support.checkout import checkout, run
from tests.support.repo import REPO

PAGE = "reports/index.html"  # not compared: it prints all settings and changes with each new one
GOLDEN = REPO / "tests/golden/tiny-portable.lock"


def outputs(lock: Path) -> dict[str, str]:
    stages = yaml.safe_load(lock.read_text())["stages"]
    made = {out["path"]: out["md5"] for stage in stages.values() for out in stage["outs"]}
    return {path: md5 for path, md5 in made.items() if path != PAGE}


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_outputs_of_the_portable_pipeline_are_the_golden_ones(tmp_path: Path) -> None:
    """After an intended change, copy dvc.lock of `gear preset tiny-portable && dvc repro`."""
    folder = checkout(tmp_path / "c")
    (folder / "params.yaml").write_text(params.to_yaml(params.load_preset("tiny-portable")))
    run(folder, sys.executable, "-m", "dvc", "repro")
    made, golden = outputs(folder / "dvc.lock"), outputs(GOLDEN)
    assert {path for path in golden if made.get(path) != golden[path]} == set()
