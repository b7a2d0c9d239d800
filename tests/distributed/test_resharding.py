"""Test resuming a state with another number of ranks and another ZeRO stage."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.distributed import accumulation, resharding
from tests.support.joint import small
from tests.support.plain_loop import plain_loop
from tests.support.repo import REPO

ENV = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
RANKS = (1, 2, 3)


def torchrun(ranks: int, *arguments: str) -> str:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc_per_node={ranks}", str(Path(resharding.__file__)), *arguments]
    done = subprocess.run(command, env=ENV, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def plain() -> dict[str, torch.Tensor]:
    """Return the weights of an uninterrupted plain loop."""
    tokenizer, guided = plain_loop(
        small(), accumulation.STEPS, "gear", images=accumulation.IMAGES, lr=accumulation.LR
    )
    return {
        f"{name}.{key}": value.detach()
        for name, module in (("tokenizer", tokenizer), ("guided", guided))
        for key, value in module.named_parameters()
    }


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with states of every ZeRO stage, saved by one, two and three ranks."""
    folder = tmp_path_factory.mktemp("states")
    for ranks in RANKS:
        torchrun(ranks, "save", str(folder))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("then", RANKS)
@pytest.mark.parametrize("before", RANKS)
def test_any_stage_and_number_of_ranks_goes_on_in_any_other(
    plain: dict[str, torch.Tensor], saved: Path, before: int, then: int
) -> None:
    output = torchrun(then, "go-on", str(saved), str(before))
    results = torch.load(saved / f"{before}-to-{then}.pt", weights_only=True)
    assert len(results) == len(resharding.STAGES) ** 2
    worst = {}
    for case, weights in results.items():
        assert weights.keys() == plain.keys()
        worst[case] = max((weights[k] - plain[k]).abs().max().item() for k in plain)
    assert max(worst.values()) < 5e-6, worst
    assert ("trained with ranks = " in output) == (before != then)
    assert "trained with zero_stage = 3, it goes on with 1" in output
