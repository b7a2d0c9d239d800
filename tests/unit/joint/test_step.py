"""Test the joint step against a plain PyTorch loop, and what each update must not change."""

from __future__ import annotations

import copy

import pytest
import torch

from gear import params as configuration
from gear.joint.model import GuidedGenerator
from gear.joint.recipes import RECIPES
from gear.joint.step import JointStep
from gear.tokenizer.model import Tokenizer
from gear.training.autoencoder import AutoencoderStep
from gear.training.batches import Batch
from gear.training.distributed import DistributedContext
from gear.training.engine import NonFinite, build_engine
from tests.support.joint import batch, models, small
from tests.support.plain_loop import EPS, plain_loop


def joint(
    config: configuration.Config, world: DistributedContext, recipe: str
) -> tuple[JointStep, Tokenizer, GuidedGenerator]:
    tokenizer, guided = models(config)
    autoencoder = None
    if RECIPES[recipe].tokenizer_trains:
        engine = build_engine(tokenizer, config.train, world, lr=1e-3, batch=4)
        autoencoder = AutoencoderStep(tokenizer, engine, config.loss, config.gan, bf16=False)
    step = JointStep(
        RECIPES[recipe],
        config.joint,
        build_engine(guided, config.train, world, lr=1e-3, batch=4),
        bf16=False,
        autoencoder=autoencoder,
        temperature=config.joint.temperature,
    )
    return step, tokenizer, guided


def with_tokens(data: Batch, tokenizer: Tokenizer) -> Batch:
    """Return a batch with the tokenizer's tokens, for steps that freeze the tokenizer."""
    with torch.no_grad():
        tokens = tokenizer.encode(data.images_BCHW).indices
    return Batch(data.images_BCHW, data.condition, data.teacher_BLC, data.keys, tokens)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("quantizer", ["vq", "lfq", "ibq"])
def test_three_joint_steps_equal_a_plain_loop(
    world: DistributedContext, quantizer: str, recipe: str
) -> None:
    config = small(quantizer)
    step, tokenizer, guided = joint(config, world, recipe)
    for engine in step.engines.values():
        engine.optimizer.param_groups[0]["eps"] = EPS
    for number in range(3):
        step(with_tokens(batch(config, number), tokenizer), number)
    plain_tokenizer, plain_guided = plain_loop(config, 3, recipe)
    starts = models(config)
    for ours, plain, start in zip(
        (tokenizer, guided), (plain_tokenizer, plain_guided), starts, strict=True
    ):
        for (name, a), b, c in zip(
            ours.named_parameters(), plain.parameters(), start.parameters(), strict=True
        ):
            assert (a - b).abs().max() < 2e-6, name
            expected = moves(recipe, name, ours is tokenizer)
            assert not expected or not torch.equal(b, c) or not b.any(), (
                f"{name} did not move: the comparison says nothing"
            )


def moves(recipe: str, name: str, of_tokenizer: bool) -> bool:
    """Return whether a recipe trains a parameter.

    A key's bias gets no gradient, as it shifts all logits of a softmax alike.
    """
    if "k.bias" in name:
        return False
    if of_tokenizer:
        return RECIPES[recipe].tokenizer_trains
    return RECIPES[recipe].hard_alignment or "projector" not in name


def test_a_frozen_tokenizer_is_bitwise_untouched(world: DistributedContext) -> None:
    config = small()
    step, tokenizer, guided = joint(config, world, "llamagen_repa")
    before = copy.deepcopy(tokenizer.state_dict())
    moved = copy.deepcopy(guided.state_dict())
    step(with_tokens(batch(config, 0), tokenizer), 0)
    assert all(torch.equal(before[name], value) for name, value in tokenizer.state_dict().items())
    assert any(not torch.equal(moved[name], value) for name, value in guided.state_dict().items())


def test_next_token_loss_sends_no_gradient_to_the_tokenizer(world: DistributedContext) -> None:
    config = small()
    step, tokenizer, _ = joint(config, world, "gear")
    data = batch(config, 0)
    indices = tokenizer(data.images_BCHW).quantized.indices
    tokenizer.zero_grad()
    step.update_generator(data, indices, {})
    assert all(p.grad is None or not p.grad.any() for p in tokenizer.parameters())


def test_soft_alignment_moves_the_tokenizer_and_not_the_generator(
    world: DistributedContext,
) -> None:
    config = small()
    runs = {}
    for weight in (0.0, 0.5):
        changed = config.model_copy(
            update={"joint": config.joint.model_copy(update={"lambda_tok": weight})}
        )
        step, tokenizer, guided = joint(changed, world, "gear")
        before = copy.deepcopy(guided.state_dict())
        data = batch(changed, 0)
        assert step.autoencoder is not None
        output = step.autoencoder.engine(data.images_BCHW)
        step.autoencoder.update_tokenizer(data, output, {}, step.soft_alignment)
        assert all(torch.equal(before[name], value) for name, value in guided.state_dict().items())
        runs[weight] = tokenizer.quant_conv.weight.detach().clone()
    assert not torch.equal(runs[0.0], runs[0.5])


def test_a_non_finite_loss_stops_before_any_weight_moves(world: DistributedContext) -> None:
    config = small()
    step, tokenizer, guided = joint(config, world, "gear")
    before = [copy.deepcopy(m.state_dict()) for m in (tokenizer, guided)]
    data = batch(config, 0)
    data.images_BCHW[0, 0, 0, 0] = float("nan")
    with pytest.raises(NonFinite, match="its weights were not moved") as caught:
        step(data, 0)
    assert caught.value.keys == data.keys
    for module, old in zip((tokenizer, guided), before, strict=True):
        assert all(torch.equal(old[name], value) for name, value in module.state_dict().items())
