"""Estimate what a params file costs at scale, from shapes alone: nothing is allocated.

FLOPs are torch's count of matrix products and convolutions in forward passes over tensors without
storage. A backward pass costs twice its forward pass, or once if no weight takes a gradient.
Memory is the sum of model states (ZeRO, Rajbhandari et al. 2020, with fp32 weights, gradients and
two Adam moments: 16 bytes per parameter), the fp32 average, and the bytes that autograd keeps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from gear.core.errors import InputError
from gear.generator.conditioning import Captions, Condition
from gear.generator.transformer import Generator
from gear.joint.alignment import Projector
from gear.joint.model import GuidedGenerator
from gear.joint.recipes import RECIPES
from gear.losses.adversarial import PatchDiscriminator
from gear.params import Config
from gear.tokenizer.model import Tokenizer

GIB = 2**30

ATTENTION = {  # torch counts the fused attention of GPUs only
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: (
        sdpa_flop_count(q, k, v)
    )
}

TEXT_WIDTHS = {
    "minilm": 384,
    "qwen3": 2048,
    "t5": 2048,
}  # of the encoders' published sizes (Qwen3-1.7B, T5-XL)

TEACHER_WIDTHS = {
    "efficientnet-lite0": 112,
    "clip": 1024,
    "vjepa2": 1024,
}  # others 768, their base size


@dataclass(frozen=True)
class Part:
    """Size of a module, and what a joint step does with it for one image."""

    name: str
    parameters: int
    trains: bool
    flops: float  # a step, an image
    kept: float  # bytes autograd keeps, an image


def plan(config: Config, *, gpus: int, tflops: float) -> str:
    """Return the estimate as a table.

    tflops: Sustained teraflop/s per GPU, as measured or hoped for.
    """
    if config.joint.batch % gpus:
        raise InputError(f"--gpus {gpus}: joint.batch {config.joint.batch} does not divide by it")
    parts = measure(config)
    lines = [
        f"recipe {config.joint.recipe}, {config.data.size} px, {config.grid**2} tokens, "
        f"batch {config.joint.batch} on {gpus} GPUs",
        "",
    ]
    lines += [f"{'':16s}{'parameters':>12s}{'GFLOP / image':>16s}"]
    lines += [f"{p.name:16s}{p.parameters / 1e6:10.1f} M{p.flops / 1e9:16.1f}" for p in parts]
    image = sum(p.flops for p in parts)
    seconds = image * config.joint.batch / (gpus * tflops * 1e12)
    lines += [
        "",
        f"joint step: {image * config.joint.batch / 1e12:.2f} TFLOP, "
        f"{seconds:.3f} s at {tflops:g} TFLOP/s a GPU",
    ]
    warm, stage2 = alone(config)
    hours = {
        f"{config.tokenizer.steps} warm-up steps": warm
        * config.tokenizer.batch
        * config.tokenizer.steps,
        f"{config.joint.steps} joint steps": image * config.joint.batch * config.joint.steps,
        f"{config.generator.steps} steps of stage 2": stage2
        * config.joint.batch
        * config.generator.steps,
    }
    lines += [
        f"{name}: {flops / (gpus * tflops * 1e12) / 3600:.2f} hours"
        for name, flops in hours.items()
    ]
    lines += [
        "(the perceptual loss's network is not counted; "
        "teacher features and frozen tokens are cached)",
        "",
        "memory a GPU, GiB",
    ]
    lines += [f"  {'':8s}{'states':>8s}{'average':>9s}{'kept':>8s}{'sum':>8s}"]
    kept = sum(p.kept for p in parts) * config.joint.batch / gpus
    for stage in range(4):
        states, average = model_states(parts, stage, gpus)
        lines.append(
            f"  ZeRO-{stage}  {states / GIB:8.2f}{average / GIB:9.2f}{kept / GIB:8.2f}"
            f"{(states + average + kept) / GIB:8.2f}"
        )
    lines += [
        "kept: activations in bf16 that autograd holds between a forward and its backward pass; "
        "workspaces come on top"
    ]
    return "\n".join(lines)


def model_states(parts: list[Part], stage: int, gpus: int) -> tuple[float, float]:
    """Return bytes per GPU of weights, gradients and moments at a ZeRO stage, and of the averages.

    Every rank holds the averages whole.
    """
    trained = sum(p.parameters for p in parts if p.trains)
    frozen = sum(p.parameters for p in parts if not p.trains)
    shared = [
        1 if stage < level else gpus for level in (3, 2, 1)
    ]  # what is split: weights, gradients, moments
    averaged = sum(p.parameters for p in parts if p.trains and p.name != "discriminator")
    return trained * (4 / shared[0] + 4 / shared[1] + 8 / shared[2]) + 4 * frozen, 4.0 * averaged


def measure(config: Config) -> list[Part]:
    """Return the parts of a joint step, from forward passes over tensors without storage."""
    recipe = RECIPES[config.joint.recipe]
    trains, reads = recipe.tokenizer_trains, recipe.readout != "none"
    with FakeTensorMode():
        tokenizer = Tokenizer(config.tokenizer).eval()  # eval: dropout multiplies no matrix
        guided = _guided(config).eval()
        images = torch.empty(1, 3, config.data.size, config.data.size)
        tokens, labels = torch.zeros(1, config.grid**2, dtype=torch.int64), _condition(config)
        through, encoded = (
            _forward(tokenizer, tokenizer, images),
            _forward(tokenizer, tokenizer.encode, images),
        )
        full = _forward(guided, guided, tokens, labels)

        def read_out(tokens: torch.Tensor, labels: Condition) -> Any:
            return guided(
                lambda table: F.embedding(tokens, table),
                labels,
                tap_only=not recipe.ntp_to_tokenizer,
            )

        soft = _forward(guided, read_out, tokens, labels) if reads else (0.0, 0.0)
        mixing = (
            2.0 * config.grid**2 * config.tokenizer.codes * config.generator.width if reads else 0.0
        )
        parts = [
            Part(
                "tokenizer",
                _count(tokenizer),
                trains,
                3 * through[0] if trains else encoded[0],
                through[1] if trains else 0.0,
            ),
            Part(
                "generator",
                _count(guided.generator),
                True,
                3 * full[0] + 2 * (soft[0] + mixing),
                full[1] + soft[1],
            ),
            Part(
                "projector", _count(guided.projector), True, 0.0, 0.0
            ),  # its work is in the generator's
        ]
        if (
            trains
            and config.gan.start_step < config.tokenizer.steps + config.joint.steps
            and config.loss.adversarial
        ):
            discriminator = PatchDiscriminator(config.gan.filters, config.gan.layers)
            seen = _forward(discriminator, discriminator, images)
            # forward and backward for real and for fake images, and once through frozen weights
            # for the tokenizer
            parts.append(
                Part("discriminator", _count(discriminator), True, 8 * seen[0], 3 * seen[1])
            )
    return parts


def alone(config: Config) -> tuple[float, float]:
    """Return FLOPs per step and image of the warm-up and of the generator in stage 2.

    The warm-up's discriminator is counted if it joins before the end.
    """
    with FakeTensorMode():
        tokenizer, guided = Tokenizer(config.tokenizer).eval(), _guided(config).eval()
        images = torch.empty(1, 3, config.data.size, config.data.size)
        warm = 3 * _forward(tokenizer, tokenizer, images)[0]
        if config.gan.start_step < config.tokenizer.steps and config.loss.adversarial:
            discriminator = PatchDiscriminator(config.gan.filters, config.gan.layers)
            warm += 8 * _forward(discriminator, discriminator, images)[0]
        tokens = torch.zeros(1, config.grid**2, dtype=torch.int64)
        return warm, 3 * _forward(guided, guided, tokens, _condition(config))[0]


def _guided(config: Config) -> GuidedGenerator:
    widths = tuple(TEACHER_WIDTHS.get(one.name, 768) for one in config.teacher.encoders)
    by_class = config.data.condition == "class"
    shape: dict[str, Any] = (
        {"classes": 1000}
        if by_class
        else {"empty_caption": torch.zeros(1, TEXT_WIDTHS[config.text.encoder])}
    )
    generator = Generator(config.generator, codes=config.tokenizer.codes, grid=config.grid, **shape)
    return GuidedGenerator(
        generator, Projector(config.generator.width, config.generator.projector_hidden, widths)
    )


def _condition(config: Config) -> Condition:
    """Return one image's class, or a caption of the greatest length."""
    if config.data.condition == "class":
        return torch.zeros(1, dtype=torch.int64)
    length = config.text.tokens + 1
    real = torch.ones(1, length, dtype=torch.bool)
    return Captions(torch.zeros(1, length, TEXT_WIDTHS[config.text.encoder]), real)


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _forward(module: nn.Module, call: Callable[..., Any], *inputs: Any) -> tuple[float, float]:
    """Return FLOPs of a forward pass, and the bytes of activations that it keeps, two per value."""
    weights = {id(p) for p in module.parameters()}
    kept: dict[int, int] = {}

    def note(value: torch.Tensor) -> torch.Tensor:
        if id(value) not in weights and not isinstance(value, nn.Parameter) and value._base is None:
            kept[id(value)] = 2 * prod(value.shape)
            alive.append(value)  # else its id may name another tensor later
        return value

    alive: list[torch.Tensor] = []
    with (
        FlopCounterMode(display=False, custom_mapping=ATTENTION) as counter,
        torch.autograd.graph.saved_tensors_hooks(note, lambda value: value),
    ):
        call(*inputs)
    return float(counter.get_total_flops()), float(sum(kept.values()))
