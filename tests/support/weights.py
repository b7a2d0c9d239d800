"""Compare the weights of two trainings."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

# half the learning rate, as Adam turns rounding of a near-zero gradient into a step
ATOL = 1e-4


def share_apart(one: Path, other: Path, limit: float, stage: str = "joint") -> float:
    """Return the share of weights that differ by more than `limit`."""
    apart = total = 0
    for model in ("tokenizer", "generator"):
        name = f"data/models/{stage}/{model}/model.safetensors"
        expected, found = load_file(one / name), load_file(other / name)
        apart += sum(int((found[n] - x).abs().gt(limit).sum()) for n, x in expected.items())
        total += sum(x.numel() for x in expected.values())
    return apart / total


def assert_close(one: Path, other: Path, stage: str = "joint", atol: float = ATOL) -> None:
    """Assert that weights are equal within `atol`, and together within 1e-4 of their norm."""
    for model in ("tokenizer", "generator"):
        name = f"data/models/{stage}/{model}/model.safetensors"
        expected, found = load_file(one / name), load_file(other / name)
        gaps = torch.cat([(found[n] - value).flatten() for n, value in expected.items()])
        whole = torch.cat([value.flatten() for value in expected.values()])
        assert gaps.abs().max() <= atol, model
        assert gaps.norm() <= 1e-4 * whole.norm(), model
