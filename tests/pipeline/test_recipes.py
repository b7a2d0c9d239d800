"""Test the whole pipeline with all quantizers and kinds of recipe (slow: `make test-slow`)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.support.checkout import checkout, run
from tests.support.settings import tiny_settings, write_params

LFQ = {"codes": 64, "code_dim": 6, "z_channels": 6}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkout(tmp_path_factory.mktemp("recipes") / "checkout")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("recipe", ["gear", "llamagen_repa", "continued", "ste"])
@pytest.mark.parametrize("quantizer", ["vq", "lfq", "ibq"])
def test_the_whole_pipeline(folder: Path, quantizer: str, recipe: str) -> None:
    config = tiny_settings(
        tokenizer={"quantizer": quantizer, **(LFQ if quantizer == "lfq" else {})},
        joint={"recipe": recipe, "temperature": {"support": 8.0}},
    )
    write_params(folder, config)
    run(folder, sys.executable, "-m", "dvc", "repro")
    metrics = json.loads((folder / "reports/metrics.json").read_text())
    assert metrics["fd"] > 0
    assert metrics["ntp_bits"] > 0
    details = json.loads((folder / "reports/codebook-details.json").read_text())
    # measured on other images than those that the temperature was calibrated on
    assert details["support"]["warm"]["effective_support"] == pytest.approx(8.0, rel=0.2)
    assert (details["churn"] == 0) == (recipe == "llamagen_repa")
    assert f"<em>{recipe}</em>" in (folder / "reports/index.html").read_text()
