"""Every quantizer with every kind of recipe through the whole pipeline (slow: `make test-slow`)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml
from test_graph import checkout, run

LFQ = {"codes": 64, "code_dim": 6, "z_channels": 6}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkout(tmp_path_factory.mktemp("recipes") / "checkout")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("recipe", ["gear", "llamagen_repa", "continued", "ste"])
@pytest.mark.parametrize("quantizer", ["vq", "lfq", "ibq"])
def test_the_whole_pipeline(folder: Path, quantizer: str, recipe: str) -> None:
    params = yaml.safe_load((folder / "presets/tiny.yaml").read_text())
    params["tokenizer"].update({"quantizer": quantizer, **(LFQ if quantizer == "lfq" else {})})
    params["joint"].update({"recipe": recipe, "temperature": {"support": 8.0}})
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    run(folder, sys.executable, "-m", "dvc", "repro")
    metrics = json.loads((folder / "reports/metrics.json").read_text())
    assert metrics["fd"] > 0 and metrics["ntp_bits"] > 0
    details = json.loads((folder / "reports/codebook-details.json").read_text())
    assert details["support"]["warm"]["effective_support"] == pytest.approx(
        8.0, rel=0.2
    )  # of other images than it was set on
    assert (details["churn"] == 0) == (recipe == "llamagen_repa")
    assert f"<em>{recipe}</em>" in (folder / "reports/index.html").read_text()
