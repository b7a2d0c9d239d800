"""Test that gradient accumulation gives the weights of a plain loop over whole batches."""

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


Weights = dict[str, dict[str, torch.Tensor]]
LIMIT = 5e-6


def plain_weights() -> Weights:
    """Return the weights after a plain training loop, by quantizer."""
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


def differences(plain: Weights, out: Path, ranks: int, stages: tuple[int, ...]) -> dict[str, float]:
    """Return the largest weight difference after five steps, by "quantizer-stage-parts"."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    script = [str(Path(accumulation.__file__)), str(out), *map(str, stages)]
    command = [*torchrun, f"--nproc_per_node={ranks}", *script]
    done = subprocess.run(command, env=ENV, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    worst = {}
    for case, weights in torch.load(out, weights_only=True).items():
        expected = plain[case.split("-")[0]]
        assert weights.keys() == expected.keys()
        worst[case] = max((weights[k] - expected[k]).abs().max().item() for k in expected)
    return worst


@pytest.fixture(scope="module")
def plain() -> Weights:
    return plain_weights()


@pytest.mark.parametrize(
    ("ranks", "stages"),
    [
        (2, (0, 1)),
        pytest.param(1, (0, 1, 2, 3), marks=pytest.mark.slow),
        pytest.param(2, (2, 3), marks=pytest.mark.slow),
        pytest.param(3, (0, 1, 2, 3), marks=pytest.mark.slow),
    ],
)
@pytest.mark.timeout(900)
def test_weights_equal_those_of_a_plain_loop(
    plain: Weights, tmp_path: Path, ranks: int, stages: tuple[int, ...]
) -> None:
    worst = differences(plain, tmp_path / "weights.pt", ranks, stages)
    assert len(worst) == 6 * len(stages)
    assert max(worst.values()) < LIMIT, worst
