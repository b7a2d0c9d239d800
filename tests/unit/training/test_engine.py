"""Test engines: modules frozen for an update, gradients that are not finite, offload."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from gear.training.checkpoint_manager import CheckpointManager
from gear.training.config import TrainConfig
from gear.training.distributed import DistributedContext
from gear.training.ema import EMA
from gear.training.engine import NonFinite, build_engine, frozen, update_weights
from gear.training.step_meter import StepMeter


def test_frozen_restores_mode_and_gradients() -> None:
    module = torch.nn.Linear(2, 2).train()
    with frozen(module):
        assert not module.training
        assert not module.weight.requires_grad
    assert module.training
    assert module.weight.requires_grad


def test_frozen_restores_after_an_error() -> None:
    module = torch.nn.Linear(2, 2).train()

    def fail() -> None:
        with frozen(module):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert module.training
    assert module.weight.requires_grad


class BadGradient(torch.autograd.Function):
    """Identity with a gradient that is not finite."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * float("inf")


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_a_gradient_that_is_not_finite_moves_no_weight(
    world: DistributedContext, stage: int, parts: int
) -> None:
    torch.manual_seed(0)
    train = TrainConfig(bf16=False)
    engine = build_engine(
        torch.nn.Linear(3, 2),
        train,
        world,
        lr=0.1,
        batch=parts,
        accumulation=parts,
        zero_stage=stage,
    )
    before = engine.module.weight.detach().clone()
    for _ in range(parts - 1):
        update_weights(engine, engine(torch.ones(1, 3)).sum(), "model", ["good"])
    loss = BadGradient.apply(engine(torch.ones(1, 3))).sum()
    assert torch.isfinite(loss)
    with pytest.raises(NonFinite, match="the model gradient is") as raised:
        update_weights(engine, loss, "model", ["bad"])
    assert raised.value.keys == ["bad"]
    assert torch.equal(engine.module.weight, before)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_the_gradient_norm_of_a_step_is_that_before_clipping(
    world: DistributedContext, stage: int
) -> None:
    train = TrainConfig(bf16=False, clip=0.1)
    engine = build_engine(
        torch.nn.Linear(3, 1, bias=False), train, world, lr=0.1, batch=1, zero_stage=stage
    )
    gradient = torch.tensor([[3.0, 0.0, 4.0]])
    update_weights(engine, engine(gradient).sum(), "model", ["image"])
    meter = StepMeter(torch.device("cpu"), None, recomputes=False)
    row = meter.read({"model": engine})
    assert row["grad_norm/model"] == pytest.approx(5.0)
    assert row["lr/model"] == pytest.approx(0.1)


def small_engine(world: DistributedContext, stage: int, *, offload: bool) -> Any:
    torch.manual_seed(0)
    return build_engine(
        torch.nn.Linear(3, 2),
        TrainConfig(bf16=False),
        world,
        lr=0.1,
        batch=1,
        zero_stage=stage,
        offload=offload,
    )


def take_steps(engine: Any, steps: range) -> torch.Tensor:
    for step in steps:
        seen = torch.randn(1, 3, generator=torch.Generator().manual_seed(step))
        update_weights(engine, engine(seen).square().sum(), "model", ["image"])
    return EMA(engine.module, 0.0).weights["weight"].clone()


@pytest.mark.parametrize("stage", [1, 2])  # ZeRO-3 would patch PyTorch for later tests
def test_an_offloaded_optimizer_takes_the_same_steps_and_resumes_without_it(
    world: DistributedContext, tmp_path: Path, stage: int
) -> None:
    whole = take_steps(small_engine(world, stage, offload=False), range(6))
    first = small_engine(world, stage, offload=True)
    take_steps(first, range(3))
    manager = CheckpointManager(tmp_path, world)
    manager.save({"model": first}, {"step": 3})
    second = small_engine(world, stage, offload=False)
    assert manager.load({"model": second})
    manager.close()
    saved, loaded = (EMA(engine.module, 0.0).weights["weight"] for engine in (first, second))
    assert torch.equal(loaded, saved)
    # DeepSpeed's AdamW for the CPU rounds as PyTorch's on some processors only
    torch.testing.assert_close(take_steps(second, range(3, 6)), whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_a_run_from_another_state_has_its_own_settings_of_adamw(
    world: DistributedContext, tmp_path: Path, stage: int
) -> None:
    """Test by weight decay, which subtracts lr x decay x weights from an otherwise equal step."""
    first = small_engine(world, stage, offload=False)
    before = take_steps(first, range(2))
    manager = CheckpointManager(tmp_path, world)
    manager.save({"model": first}, {"step": 2})
    after = {}
    for decay in (0.0, 0.5):
        train = TrainConfig(bf16=False, weight_decay=decay, beta2=0.9)
        engine = build_engine(
            torch.nn.Linear(3, 2), train, world, lr=0.1, batch=1, zero_stage=stage
        )
        assert manager.load({"model": engine})
        assert [group["betas"] for group in engine.optimizer.param_groups] == [(0.9, 0.9)]
        after[decay] = take_steps(engine, range(2, 3))
    manager.close()
    assert torch.allclose(after[0.0] - after[0.5], 0.1 * 0.5 * before, atol=1e-7)
