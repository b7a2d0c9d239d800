"""Take joint steps with gradient accumulation under torchrun, and save the models' weights.

torchrun --standalone --nproc_per_node=N tests/distributed/accumulation.py OUT STAGE...

STAGE is a ZeRO stage, 0 to 3.
"""

from __future__ import annotations

import sys

import torch
from torch import nn

from gear.joint.recipes import RECIPES
from gear.joint.step import JointStep
from gear.training.autoencoder import AutoencoderStep
from gear.training.batches import Batch
from gear.training.distributed import DistributedContext, join_process_group
from gear.training.ema import EMA
from gear.training.engine import build_engine
from tests.support.joint import batch, models, small
from tests.support.plain_loop import EPS

IMAGES, STEPS = 12, 5
LR = 2e-4  # with a tenfold rate, rounding changes LFQ indices within five steps
DECAY = 0.5
QUANTIZERS, PARTS = ("vq", "lfq", "ibq"), (1, 2)


def share(whole: Batch, world: DistributedContext) -> Batch:
    mine = slice(world.rank, None, world.size)
    return Batch(
        whole.images()[mine], whole.conditions()[mine], whole.teacher()[mine], whole.keys[mine]
    )


def joint_step(
    quantizer: str, stage: int, parts: int, world: DistributedContext, recipe: str = "gear"
) -> JointStep:
    config = small(quantizer)
    tokenizer, guided = models(config)
    first, second = (
        build_engine(
            module,
            config.train,
            world,
            lr=LR,
            batch=IMAGES,
            accumulation=parts,
            zero_stage=stage,
        )
        for module in (tokenizer, guided)
    )
    autoencoder = AutoencoderStep(tokenizer, first, config.loss, config.gan, bf16=False)
    step = JointStep(
        RECIPES[recipe],
        config.joint,
        second,
        bf16=False,
        autoencoder=autoencoder,
        temperature=config.joint.temperature,
    )
    for engine in step.engines.values():
        engine.optimizer.param_groups[0]["eps"] = EPS
    return step


def train(
    step: JointStep, quantizer: str, numbers: range, parts: int, world: DistributedContext
) -> None:
    for number in numbers:
        pieces = share(batch(small(quantizer), number, IMAGES), world).micro_batches(parts)
        if parts > 1:
            step.measure_batch(pieces, number)
        for piece in pieces:
            step(piece, number)


def weights(step: JointStep) -> dict[str, torch.Tensor]:
    """Return the parameters of both models by name, gathered on every rank."""
    modules: dict[str, nn.Module] = {
        name: step.engines[engine].module
        for name, engine in (("tokenizer", "tokenizer"), ("guided", "generator"))
    }
    whole = {name: EMA(module, 0.0).weights for name, module in modules.items()}
    return {
        f"{name}.{key}": whole[name][key].clone()
        for name, module in modules.items()
        for key, _ in module.named_parameters()
    }


def trained(
    quantizer: str, stage: int, parts: int, world: DistributedContext
) -> dict[str, torch.Tensor]:
    step = joint_step(quantizer, stage, parts, world)
    module = step.engine.module
    average, expected = EMA(module, DECAY), EMA(module, 0.0).weights
    expected = {name: value.clone() for name, value in expected.items()}
    for number in range(STEPS):
        train(step, quantizer, range(number, number + 1), parts, world)
        average.update()
        for name, live in EMA(module, 0.0).weights.items():
            expected[name].lerp_(live, 1 - DECAY)
    check(average.weights, expected)
    again = EMA(module, DECAY)
    again.load(expected)
    check(again.weights, expected)
    return weights(step)


def check(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


if __name__ == "__main__":
    world = join_process_group(small().host, seed=0)
    results = {
        f"{quantizer}-{stage}-{parts}": trained(quantizer, stage, parts, world)
        for quantizer in QUANTIZERS
        for stage in map(int, sys.argv[2:])
        for parts in PARTS
    }
    if world.is_rank_zero:
        torch.save(results, sys.argv[1])
