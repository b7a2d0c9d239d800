"""Test that `host.compile` gives the same steps except for rounding, and the same names."""

from __future__ import annotations

import pytest
import torch

from gear.core.errors import InputError
from gear.joint.recipes import RECIPES
from gear.joint.step import JointStep
from gear.losses.adversarial import PatchDiscriminator
from gear.training.autoencoder import AutoencoderStep
from gear.training.compiled import compile_parts, is_compiled
from gear.training.distributed import DistributedContext
from gear.training.engine import build_engine
from tests.support.joint import batch, models, small
from tests.support.plain_loop import EPS, plain_loop
from tests.support.settings import tiny_settings


@pytest.mark.parametrize("quantizer", ["vq", "lfq"])
def test_names_of_weights_stay_and_the_last_layer_is_not_compiled(quantizer: str) -> None:
    tokenizer, guided = models(small(quantizer))
    for model in (tokenizer, guided):
        before = list(model.state_dict())
        assert not is_compiled(model)
        compile_parts(model)
        assert is_compiled(model)
        assert list(model.state_dict()) == before
    assert not is_compiled(tokenizer.decoder.conv_out)


def test_without_a_compiler_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(InputError, match=r"there is no no-such-compiler: install it"):
        compile_parts(torch.nn.Identity())


def test_what_cannot_be_compiled_is_refused() -> None:
    with pytest.raises(ValueError, match=r"host\.compile needs whole weights"):
        tiny_settings(host={"compile": True, "zero_stage": 3})
    with pytest.raises(ValueError, match=r"host\.compile generates code for this one"):
        tiny_settings(host={"compile": True}, train={"portable": True, "bf16": False})


@pytest.mark.slow
@pytest.mark.parametrize("quantizer", ["vq", "lfq", "ibq"])
def test_compiled_joint_steps_equal_a_plain_loop(world: DistributedContext, quantizer: str) -> None:
    config = small(quantizer)
    tokenizer, guided = models(config)
    engines = {}
    for name, model in (("tokenizer", tokenizer), ("guided", guided)):
        compile_parts(model)
        engines[name] = build_engine(model, config.train, world, lr=1e-3, batch=4)
        engines[name].optimizer.param_groups[0]["eps"] = EPS
    step = JointStep(
        RECIPES["gear"],
        config.joint,
        engines["guided"],
        bf16=False,
        autoencoder=AutoencoderStep(
            tokenizer, engines["tokenizer"], config.loss, config.gan, bf16=False
        ),
        temperature=config.joint.temperature,
    )
    for number in range(3):
        step(batch(config, number), number)
    plain = plain_loop(config, 3, "gear")
    for ours, expected in zip((tokenizer, guided), plain, strict=True):
        for (name, a), b in zip(ours.named_parameters(), expected.parameters(), strict=True):
            assert (a - b).abs().max() < 5e-6, name


@pytest.mark.slow
def test_a_compiled_tokenizer_takes_the_same_adversarial_step(world: DistributedContext) -> None:
    """Test the adaptive weight, which takes a gradient in the middle of the graph."""
    config = small()
    loss = config.loss.model_copy(update={"adversarial": 0.5, "adaptive": True})
    weights = []
    for compiled in (False, True):
        tokenizer, _ = models(config)
        if compiled:
            compile_parts(tokenizer)
        torch.manual_seed(1)
        judge = PatchDiscriminator(8, 2)
        engines = [
            build_engine(model, config.train, world, lr=1e-3, batch=4)
            for model in (tokenizer, judge)
        ]
        for engine in engines:
            engine.optimizer.param_groups[0]["eps"] = EPS
        step = AutoencoderStep(
            tokenizer, engines[0], loss, config.gan, bf16=False, discriminator_engine=engines[1]
        )
        factors = [step(batch(config, n), n)[0]["gan/adaptive_weight"] for n in range(2)]
        weights.append([*factors, *(p.detach() for p in tokenizer.parameters())])
    for eager, compiled in zip(*weights, strict=True):
        torch.testing.assert_close(compiled, eager, rtol=1e-3, atol=5e-6)
