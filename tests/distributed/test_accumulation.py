"""Gradient accumulation: the same weights as a plain loop over whole batches."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.distributed import accumulation
from tests.support.joint import small
from tests.support.plain_loop import plain_loop
from tests.support.repo import REPO

ENV = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def plain() -> dict[str, dict[str, torch.Tensor]]:
    """Weights of a plain loop, by quantizer."""
    found = {}
    for quantizer in accumulation.QUANTIZERS:
        tokenizer, guided = plain_loop(
            small(quantizer),
            accumulation.STEPS,
            "gear",
            images=accumulation.IMAGES,
            lr=accumulation.LR,
        )
        found[quantizer] = {
            f"{name}.{key}": value.detach()
            for name, module in (("tokenizer", tokenizer), ("guided", guided))
            for key, value in module.named_parameters()
        }
    return found


@pytest.mark.parametrize(
    "ranks", [2, pytest.param(1, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow)]
)
def test_weights_equal_those_of_a_plain_loop(
    plain: dict[str, dict[str, torch.Tensor]], tmp_path: Path, ranks: int
) -> None:
    out = tmp_path / "weights.pt"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    script = str(Path(accumulation.__file__))
    command = [*torchrun, f"--nproc_per_node={ranks}", script, str(out)]
    done = subprocess.run(command, env=ENV, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    results = torch.load(out, weights_only=True)
    assert len(results) == 12
    worst = {}
    for case, weights in results.items():
        expected = plain[case.split("-")[0]]
        assert weights.keys() == expected.keys()
        worst[case] = max((weights[k] - expected[k]).abs().max().item() for k in expected)
    assert max(worst.values()) < 5e-6, worst
