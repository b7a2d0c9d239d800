"""Test training stages and recipes on two and three ranks, with sizes that do not divide evenly.

Adam turns rounding of a near-zero gradient into a step, so weights are only compared roughly.
test_accumulation.py compares them closely.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gear.joint.recipes import RECIPES
from tests.support.commands import gear
from tests.support.settings import edit_params
from tests.support.weights import assert_close, share_apart


def fresh(prepared: Path, cwd: Path) -> Path:
    """Return a copy of the prepared folder without its joint training."""
    shutil.copytree(prepared, cwd)
    shutil.rmtree(cwd / "data/models/joint")
    shutil.rmtree(cwd / ".gear/joint")
    return cwd


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_ends_on_any_number_of_ranks_as_on_one(
    prepared: Path, tmp_path: Path, recipe: str, ranks: int
) -> None:
    """Test sizes that do not divide by the ranks, and different intervals of FD, log and state."""
    one, several = fresh(prepared, tmp_path / "one"), fresh(prepared, tmp_path / "several")
    for cwd in (one, several):
        joint = {"recipe": recipe, "steps": 5, "batch": 6, "fd_every": 3, "fd_n": 20}
        edit_params(cwd, joint=joint, host={"log_every": 2, "checkpoint_every": 4})
        edit_params(cwd, generator={"steps": 3})
    edit_params(several, host={"ranks": ranks})
    for stage in ("joint", "generator"):
        for cwd in (one, several):
            gear(cwd, stage)
        assert_close(one, several, stage, atol=5e-4)
        curves = [
            [json.loads(line) for line in (cwd / f"data/models/{stage}/curves.jsonl").open()]
            for cwd in (one, several)
        ]
        assert [row["step"] for row in curves[0]] == [row["step"] for row in curves[1]]
        for rows in zip(*curves, strict=True):
            assert rows[0].get("fd", 0) == pytest.approx(rows[1].get("fd", 0), rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3])
def test_the_warm_up_ends_on_any_number_of_ranks_as_on_one(
    prepared: Path, tmp_path: Path, ranks: int
) -> None:
    one, several = tmp_path / "one", tmp_path / "several"
    for cwd, count in ((one, 1), (several, ranks)):
        shutil.copytree(prepared, cwd)
        edit_params(cwd, tokenizer={"batch": 6, "steps": 4}, host={"ranks": count, "log_every": 3})
        gear(cwd, "tokenizer")
    model = "data/models/tokenizer/tokenizer/model.safetensors"
    other = load_file(several / model)
    for name, value in load_file(one / model).items():
        torch.testing.assert_close(other[name], value, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_zero_3_saves_a_whole_discriminator(prepared: Path, tmp_path: Path) -> None:
    one, several = tmp_path / "one", tmp_path / "several"
    for cwd, ranks, zero_stage in ((one, 1, 1), (several, 2, 3)):
        shutil.copytree(prepared, cwd)
        shutil.rmtree(cwd / ".gear/tokenizer")
        shutil.rmtree(cwd / "data/models/tokenizer")
        edit_params(cwd, tokenizer={"batch": 6, "steps": 3}, gan={"start_step": 1})
        edit_params(cwd, host={"ranks": ranks, "zero_stage": zero_stage})
        gear(cwd, "tokenizer")
    model = "data/models/tokenizer/discriminator/model.safetensors"
    weights, other = load_file(one / model), load_file(several / model)
    assert weights.keys() == other.keys()
    for name, value in weights.items():
        torch.testing.assert_close(other[name], value, rtol=1e-3, atol=1e-3)


def test_accumulated_gradients_train_the_same_weights(prepared: Path, tmp_path: Path) -> None:
    parts = fresh(prepared, tmp_path / "parts")
    edit_params(parts, host={"micro_batch": 3})  # 8 images: micro-batches of 2
    gear(parts, "joint")
    assert_close(prepared, parts)
    assert share_apart(prepared, parts, 1e-5) < 1e-3


@pytest.mark.slow
def test_teacher_features_computed_in_the_step_train_the_same_weights(
    prepared: Path, tmp_path: Path
) -> None:
    never = fresh(prepared, tmp_path / "never")
    edit_params(never, teacher={"cache": "never"})
    assert "not cached" in gear(never, "features")
    assert not (never / "data/features/train.npy").exists()
    gear(never, "joint")
    assert_close(prepared, never)


@pytest.mark.slow
def test_a_frozen_tokenizer_s_batches_hold_images_for_the_teacher(
    prepared: Path, tmp_path: Path
) -> None:
    cached, never = fresh(prepared, tmp_path / "cached"), fresh(prepared, tmp_path / "never")
    edit_params(never, teacher={"cache": "never"})
    gear(never, "features")
    for cwd in (cached, never):
        edit_params(cwd, joint={"recipe": "llamagen_repa", "steps": 4})
        gear(cwd, "joint")
    assert_close(cached, never)
