"""The joint step against a plain PyTorch loop, and what each update must not touch."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from gear import params as configuration
from gear.generator.transformer import Generator
from gear.joint.alignment import Projector
from gear.joint.model import GuidedGenerator
from gear.joint.recipes import RECIPES
from gear.joint.soft_readout import soft_tokens
from gear.joint.step import JointStep
from gear.tokenizer.model import Tokenizer
from gear.training.autoencoder import NonFinite
from gear.training.batches import Batch
from gear.training.distributed import DistributedContext, join_process_group
from gear.training.engine import build_engine, frozen

CLASSES, WIDTH = 3, 10
EPS = 1e-2  # Adam must not turn the rounding of a near-zero gradient into a full step


@pytest.fixture(scope="module")
def world() -> DistributedContext:
    return join_process_group(small())


def small(quantizer: str = "vq") -> configuration.Config:
    text = (Path(__file__).parents[2] / "presets" / "tiny.yaml").read_text()
    base = configuration.parse(text)
    return base.model_copy(
        update={
            "train": base.train.model_copy(update={"bf16": False}),
            "generator": base.generator.model_copy(update={"dropout": 0.0, "class_dropout": 0.0}),
            "tokenizer": base.tokenizer.model_copy(
                update={
                    "quantizer": quantizer,
                    **({"code_dim": 6, "z_channels": 6} if quantizer == "lfq" else {}),
                }
            ),
        }
    )


def models(config: configuration.Config) -> tuple[Tokenizer, GuidedGenerator]:
    torch.manual_seed(1)
    generator = Generator(
        config.generator, codes=config.tokenizer.codes, grid=config.grid, classes=CLASSES
    )
    torch.nn.init.normal_(
        generator.output.weight, std=0.02
    )  # past the zero start, so that NTP reaches the trunk
    projector = Projector(config.generator.width, config.generator.projector_hidden, (WIDTH,))
    return Tokenizer(config.tokenizer).train(), GuidedGenerator(generator, projector).train()


def batch(config: configuration.Config, seed: int) -> Batch:
    random = torch.Generator().manual_seed(seed)
    images = torch.rand(4, 3, config.data.size, config.data.size, generator=random) * 2 - 1
    teacher = torch.randn(4, config.grid**2, WIDTH, generator=random)
    return Batch(images, torch.tensor([0, 1, 2, 0]), teacher, [f"image-{i}" for i in range(4)])


def joint(
    config: configuration.Config, world: DistributedContext, recipe: str
) -> tuple[JointStep, Tokenizer, GuidedGenerator]:
    tokenizer, guided = models(config)
    trains = RECIPES[recipe].tokenizer_trains
    engine = build_engine(tokenizer, config, world, lr=1e-3, batch=4) if trains else None
    step = JointStep(
        config,
        RECIPES[recipe],
        tokenizer=tokenizer,
        perceptual=None,
        tokenizer_engine=engine,
        generator_engine=build_engine(guided, config, world, lr=1e-3, batch=4),
        temperature=config.joint.temperature,
    )
    return step, tokenizer, guided


def plain_loop(
    config: configuration.Config, steps: int, recipe: str
) -> tuple[Tokenizer, GuidedGenerator]:
    """The same two updates with plain optimisers, autograd.grad and formulas written out, the one-hot and all."""
    tokenizer, guided = models(config)
    first = torch.optim.AdamW(tokenizer.parameters(), lr=1e-3, eps=EPS, weight_decay=0.0)
    second = torch.optim.AdamW(guided.parameters(), lr=1e-3, eps=EPS, weight_decay=0.0)
    weights, tau = config.loss, config.joint.temperature
    for number in range(steps):
        data = batch(config, number)
        output = tokenizer(data.images_BCHW)
        quantized = output.quantized
        total = (
            weights.l1 * (output.reconstruction - data.images_BCHW).abs().mean()
            + weights.codebook * quantized.codebook_loss
            + weights.commitment * quantized.commitment_loss
            + weights.entropy * quantized.entropy_loss
        )
        if recipe in ("gear", "soft_hard_forward", "ste"):
            twin = copy.deepcopy(guided).eval()
            distances = quantized.assignment.distances()
            shares = torch.exp((distances.min(-1, keepdim=True).values - distances) / tau)
            shares = shares / shares.sum(-1, keepdim=True)
            if recipe != "gear":
                shares = (
                    F.one_hot(quantized.indices, config.tokenizer.codes) + shares - shares.detach()
                )
            generated, projected = twin(lambda table, shares=shares: shares @ table, data.condition)
            total = total - config.joint.lambda_tok * mean_cosine(projected, data)
            if recipe == "ste":
                total = total - (shares * generated.logits.log_softmax(-1)).sum(-1).mean()
        if recipe not in ("llamagen", "llamagen_repa"):
            apply(first, tokenizer, total, config.train.clip)
        output, projected = guided(quantized.indices, data.condition)
        loss = -output.logits.log_softmax(-1).gather(-1, quantized.indices[..., None]).mean()
        if recipe != "llamagen":
            loss = loss - config.joint.lambda_ar * mean_cosine(projected, data)
        apply(second, guided, loss, config.train.clip)
    return tokenizer, guided


def mean_cosine(projected: torch.Tensor, data: Batch) -> torch.Tensor:
    return (F.normalize(projected, dim=-1) * F.normalize(data.teacher_BLC, dim=-1)).sum(-1).mean()


def apply(
    optimizer: torch.optim.Optimizer, module: torch.nn.Module, loss: torch.Tensor, clip: float
) -> None:
    for parameter, gradient in zip(
        module.parameters(),
        torch.autograd.grad(loss, list(module.parameters()), allow_unused=True),
        strict=True,
    ):
        parameter.grad = torch.zeros_like(parameter) if gradient is None else gradient
    torch.nn.utils.clip_grad_norm_(module.parameters(), clip)
    optimizer.step()


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
        step(batch(config, number), number)
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
    """Whether a recipe trains this parameter; a key's bias shifts all of a softmax's logits alike and gets no gradient."""
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
    step(batch(config, 0), 0)
    assert all(torch.equal(before[name], value) for name, value in tokenizer.state_dict().items())
    assert any(not torch.equal(moved[name], value) for name, value in guided.state_dict().items())


def test_next_token_loss_sends_no_gradient_to_the_tokenizer(world: DistributedContext) -> None:
    config = small()
    step, tokenizer, _ = joint(config, world, "gear")
    data = batch(config, 0)
    indices = tokenizer(data.images_BCHW).quantized.indices
    tokenizer.zero_grad()
    step._update_generator(data, indices, {})
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
        step._update_tokenizer(data, step.tokenizer_engine(data.images_BCHW), {}, gan=False)
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


def test_frozen_restores_mode_and_gradients() -> None:
    module = torch.nn.Linear(2, 2).train()
    with pytest.raises(RuntimeError), frozen(module):
        assert not module.training and not module.weight.requires_grad
        raise RuntimeError
    assert module.training and module.weight.requires_grad


@pytest.mark.parametrize("readout", ["soft", "straight_through"])
def test_soft_tokens_become_the_hard_tokens_as_temperature_falls(readout: str) -> None:
    tokenizer, guided = models(small())
    quantized = tokenizer.encode(batch(small(), 0).images_BCHW)
    table = guided.generator.tok_embeddings.weight.detach()
    hard = table[quantized.indices]
    gaps = [
        (soft_tokens(quantized, table, temperature=tau, readout=readout) - hard).abs().max().item()
        for tau in (1.0, 0.01, 1e-7)
    ]
    assert gaps[-1] < 1e-6
    assert (gaps[0] > 1e-3) == (
        readout == "soft"
    )  # straight through has the hard value at any temperature


def test_cached_tokens_give_the_step_that_their_images_give(world: DistributedContext) -> None:
    config, runs = small(), []
    for cached in (False, True):
        step, tokenizer, guided = joint(config, world, "llamagen_repa")
        data = batch(config, 0)
        if cached:
            tokens = tokenizer.encode(data.images_BCHW).indices
            data = Batch(None, data.condition, data.teacher_BLC, data.keys, tokens)
        runs.append((step(data, 0)[0], guided.state_dict()))
    (losses, weights), (other_losses, other_weights) = runs
    assert all(torch.equal(losses[name], other_losses[name]) for name in losses)
    assert all(torch.equal(weights[name], other_weights[name]) for name in weights)
