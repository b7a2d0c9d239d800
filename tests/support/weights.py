"""Weights of two trainings side by side."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

ATOL = (
    1e-4  # half a step's learning rate: Adam turns the rounding of a near-zero gradient into a step
)


def share_apart(one: Path, other: Path, limit: float, stage: str = "joint") -> float:
    """Return which share of all weights differ by more than `limit`."""
    apart = total = 0
    for model in ("tokenizer", "generator"):
        name = f"data/models/{stage}/{model}/model.safetensors"
        expected, found = load_file(one / name), load_file(other / name)
        apart += sum(int((found[n] - x).abs().gt(limit).sum()) for n, x in expected.items())
        total += sum(x.numel() for x in expected.values())
    return apart / total


def assert_close(one: Path, other: Path, stage: str = "joint", atol: float = ATOL) -> None:
    """Every weight is within `atol`, and all together within a ten-thousandth of their norm."""
    for model in ("tokenizer", "generator"):
        name = f"data/models/{stage}/{model}/model.safetensors"
        expected, found = load_file(one / name), load_file(other / name)
        gaps = torch.cat([(found[n] - value).flatten() for n, value in expected.items()])
        whole = torch.cat([value.flatten() for value in expected.values()])
        assert gaps.abs().max() <= atol, model
        assert gaps.norm() <= 1e-4 * whole.norm(), model
