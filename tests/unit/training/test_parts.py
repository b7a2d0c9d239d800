"""Test that micro-batches take the steps of the whole batch, also with adversarial losses."""

from __future__ import annotations

import pytest
import torch

from gear.losses.adversarial import PatchDiscriminator
from gear.training.autoencoder import AutoencoderStep
from gear.training.distributed import DistributedContext
from gear.training.engine import accumulation, build_engine
from tests.support.joint import batch, models, small
from tests.support.plain_loop import EPS

IMAGES, STEPS = 6, 4
Found = dict[str, torch.Tensor]


def train(world: DistributedContext, parts: int, *, measure: bool = True) -> Found:
    """Train some steps; return the weights, LeCam's anchors and the last losses."""
    config = small()
    tokenizer, _ = models(config)
    discriminator = PatchDiscriminator(8, 2)
    first, second = (
        build_engine(m, config.train, world, lr=2e-4, batch=IMAGES, accumulation=parts)
        for m in (tokenizer, discriminator)
    )
    loss = config.loss.model_copy(update={"adaptive": True, "adversarial": 0.5, "entropy": 0.5})
    gan = config.gan.model_copy(update={"lecam": 5.0})
    step = AutoencoderStep(tokenizer, first, loss, gan, bf16=False, discriminator_engine=second)
    for engine in (first, second):
        engine.optimizer.param_groups[0]["eps"] = EPS
    means: Found = {}
    for number in range(STEPS):
        pieces = batch(config, number, IMAGES).micro_batches(parts)
        if parts > 1 and measure:
            step.measure_batch(pieces, number)
        done = [step(piece, number)[0] for piece in pieces]
        means = {name: torch.stack([losses[name] for losses in done]).mean() for name in done[0]}
    return {
        **{f"tokenizer.{n}": p.detach().clone() for n, p in tokenizer.named_parameters()},
        **{f"discriminator.{n}": p.detach().clone() for n, p in discriminator.named_parameters()},
        "anchors": step.lecam.anchors.clone(),
        **means,
    }


@pytest.fixture(scope="module")
def whole(world: DistributedContext) -> Found:
    return train(world, 1)


@pytest.mark.parametrize("parts", [2, 3])
def test_parts_take_the_steps_of_the_whole_batch(
    world: DistributedContext, whole: Found, parts: int
) -> None:
    found = train(world, parts)
    assert found.keys() == whole.keys()
    for name, value in whole.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=5e-6, msg=name)


def test_parts_take_other_steps_if_the_whole_batch_is_not_measured(
    world: DistributedContext, whole: Found
) -> None:
    """Test that measuring the whole batch matters, as some losses are not means over images."""
    found = train(world, 2, measure=False)
    moved = [n for n, v in whole.items() if (found[n] - v).abs().max() > 2e-5]
    assert any(name.startswith("tokenizer.") for name in moved)
    assert "anchors" in moved


def test_a_share_is_taken_in_equal_parts_of_at_most_the_micro_batch() -> None:
    for batch_size, ranks, micro, parts in [
        (256, 8, 0, 1),
        (256, 8, 32, 1),
        (256, 8, 31, 2),
        (256, 1, 64, 4),
        (12, 1, 5, 3),
        (7, 1, 2, 7),
        (6, 2, 100, 1),
    ]:
        assert accumulation(batch_size, ranks, micro) == parts
