"""Estimate the cost of a run at scale from shapes alone: nothing is allocated.

FLOPs are torch's count of matrix products and convolutions in forward passes over tensors without
storage. A backward pass costs twice its forward pass, or once if no weight takes a gradient.
Memory is the sum of model states (ZeRO, Rajbhandari et al. 2020, with fp32 weights, gradients and
two Adam moments: 16 bytes per parameter; from stage 1 on DeepSpeed also holds a copy of the weights
that a rank updates), the fp32 average, and the bytes that autograd keeps.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from gear.encoders.config import TeacherConfig
from gear.generator.conditioning import Captions, Condition
from gear.generator.transformer import Generator
from gear.joint.alignment import Projector
from gear.joint.model import GuidedGenerator
from gear.joint.recipes import RECIPES
from gear.losses.adversarial import PatchDiscriminator
from gear.params import Config
from gear.tokenizer.model import Tokenizer

GIB = 2**30

# Autocast computes group normalization in fp32 on GPUs: its input, its output and the input of the
# next convolution take 4 + 4 + 2 bytes a value there, where bf16 throughout would take 2 + 2 + 2.
NORMALISED = 10 / 6

ATTENTION = {  # torch counts the fused attention of GPUs only
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: (
        sdpa_flop_count(q, k, v)
    )
}

# of the encoders' published sizes (Qwen3-1.7B, T5-XL)
TEXT_WIDTHS = {
    "minilm": 384,
    "qwen3": 2048,
    "t5": 2048,
}

# others have 768, the width of their base size
TEACHER_WIDTHS = {
    "efficientnet-lite0": 112,
    "clip": 1024,
    "vjepa2": 1024,
}


@dataclass(frozen=True)
class TeacherSize:
    """Number of weights of a vision transformer, and the side of its patches in pixels."""

    parameters: float
    patch: int


TEACHERS = {  # of the published models that gear/encoders/vision.py names
    "dinov2": TeacherSize(86e6, 14),
    "dinov3": TeacherSize(86e6, 16),
    "siglip2": TeacherSize(86e6, 16),
    "clip": TeacherSize(303e6, 14),
    "vjepa2": TeacherSize(304e6, 16),
}
PACKAGED_FLOPS = 0.2e9  # of EfficientNet-Lite0 up to block 10 at 128 px


@dataclass(frozen=True)
class Part:
    """Size of a module, and its cost in a joint step for one image."""

    name: str
    parameters: int
    trains: bool
    flops: float  # per step and image
    kept: float  # bytes that autograd keeps per image


def kept_bytes(config: Config, parts: list[Part]) -> float:
    """Return the bytes that autograd holds for an image between forward and backward pass.

    With activation checkpointing, a block of the generator keeps only its input, and one block at a
    time is recomputed.
    """
    kept = sum(part.kept for part in parts)
    if not config.host.activation_checkpointing:
        return kept
    (generator,) = (part.kept for part in parts if part.name == "generator")
    layers = config.generator.layers
    inputs = 2.0 * layers * config.grid**2 * config.generator.width
    return kept - generator + generator / layers + inputs


def teacher_flops(teacher: TeacherConfig) -> float:
    """Return FLOPs of a teacher's forward pass for an image, two per weight and token."""
    if teacher.name not in TEACHERS:
        return PACKAGED_FLOPS * (teacher.input_size / 128) ** 2
    size = TEACHERS[teacher.name]
    return 2.0 * size.parameters * (teacher.input_size / size.patch) ** 2


def model_states(
    parts: list[Part], stage: int, gpus: int, *, offload: bool = False
) -> tuple[float, float]:
    """Return bytes per GPU of weights, gradients and moments at a ZeRO stage, and of the averages.

    Every rank holds all averages, at ZeRO-3 only its partition. offload: the moments and the
    copy of the weights are in CPU memory.
    """
    trained = sum(p.parameters for p in parts if p.trains)
    frozen = sum(p.parameters for p in parts if not p.trains)
    # number of GPUs that share weights, gradients and moments
    shared = [1 if stage < level else gpus for level in (3, 2, 1)]
    moments = 0 if offload else (8 + 4 * (stage > 0)) / shared[2]
    states = trained * (4 / shared[0] + 4 / shared[1] + moments) + 4 * frozen
    return states, 4.0 * _averaged(parts) / shared[0]


def saved_bytes(parts: list[Part], stage: int) -> int:
    """Return the bytes of a saved state: weights, moments and averages.

    At ZeRO-1 and 2 it has the weights twice: as the model's, and as the copy that is updated.
    """
    trained = sum(p.parameters for p in parts if p.trains)
    return trained * (16 if stage in (1, 2) else 12) + 4 * _averaged(parts)


def _averaged(parts: list[Part]) -> int:
    return sum(p.parameters for p in parts if p.trains and p.name != "discriminator")


def measure(config: Config) -> list[Part]:
    """Return the parts of a joint step, from forward passes over tensors without storage."""
    recipe = RECIPES[config.joint.recipe]
    trains, reads = recipe.tokenizer_trains, recipe.readout != "none"
    with FakeTensorMode():
        tokenizer = Tokenizer(config.tokenizer).eval()  # eval: without dropout
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
                NORMALISED * through[1] if trains else 0.0,
            ),
            Part(
                "generator",
                _count(guided.generator),
                True,
                3 * full[0] + 2 * (soft[0] + mixing),
                full[1] + soft[1],
            ),
            # the projector's FLOPs and activations are included in the generator's
            Part("projector", _count(guided.projector), True, 0.0, 0.0),
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
                Part(
                    "discriminator",
                    _count(discriminator),
                    True,
                    8 * seen[0],
                    3 * NORMALISED * seen[1],
                )
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


def perceptual_network(config: Config) -> Part | None:
    """Return LPIPS with VGG16, in fp32, for an image; None if the loss does not use it.

    It runs forward for the image and its reconstruction, and backward to the reconstruction.
    """
    if not (config.loss.perceptual and config.loss.vgg16.path):
        return None
    import lpips

    with FakeTensorMode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lpips uses deprecated arguments of torchvision
        metric = lpips.LPIPS(net="vgg", pretrained=False, pnet_rand=True, verbose=False)
        metric.eval().requires_grad_(False)
        images = torch.empty(1, 3, config.data.size, config.data.size)
        flops, kept = _forward(metric, metric, images.clone().requires_grad_(), images)
        return Part("LPIPS", _count(metric), False, 1.5 * flops, 2 * kept)


def whole_batch_flops(config: Config, steps: int) -> float:
    """Return FLOPs for an image of the pass over a whole batch before its parts are trained on.

    steps: the tokenizer's steps by the end of the stage; the discriminator counts if it joins
    before. See `AutoencoderStep.measure_batch`.
    """
    adversarial = config.loss.adversarial and config.gan.start_step < steps
    judged = adversarial and (config.loss.adaptive or config.gan.lecam > 0)
    if not (config.loss.entropy or judged):
        return 0.0
    with FakeTensorMode():
        tokenizer = Tokenizer(config.tokenizer).eval()
        images = torch.empty(1, 3, config.data.size, config.data.size)
        flops = _forward(tokenizer, tokenizer, images)[0]
        if judged:  # forward for real and for fake images
            discriminator = PatchDiscriminator(config.gan.filters, config.gan.layers)
            flops += 2 * _forward(discriminator, discriminator, images)[0]
    return flops


def warm_up_flops(config: Config, *, parts: int) -> float:
    """Return FLOPs of a warm-up step for an image, with LPIPS, in some parts a step."""
    warm = alone(config)[0]
    if network := perceptual_network(config):
        warm += network.flops
    return warm + (whole_batch_flops(config, config.tokenizer.steps) if parts > 1 else 0.0)


def teacher_widths(config: Config) -> tuple[int, ...]:
    return tuple(TEACHER_WIDTHS.get(one.name, 768) for one in config.teacher.encoders)


def forward_flops(config: Config) -> float:
    """Return FLOPs of the generator's forward pass for an image."""
    with FakeTensorMode():
        guided = _guided(config).eval()
        tokens = torch.zeros(1, config.grid**2, dtype=torch.int64)
        return _forward(guided, guided, tokens, _condition(config))[0]


def _guided(config: Config) -> GuidedGenerator:
    widths = teacher_widths(config)
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
    """Return the condition of one image: a class, or a caption of maximum length."""
    if config.data.condition == "class":
        return torch.zeros(1, dtype=torch.int64)
    length = config.text.tokens + 1
    real = torch.ones(1, length, dtype=torch.bool)
    return Captions(torch.zeros(1, length, TEXT_WIDTHS[config.text.encoder]), real)


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _forward(module: nn.Module, call: Callable[..., Any], *inputs: Any) -> tuple[float, float]:
    """Return FLOPs of a forward pass and bytes of activations that it keeps, 2 per value."""
    weights = {id(p) for p in module.parameters()}
    kept: dict[int, int] = {}

    def note(value: torch.Tensor) -> torch.Tensor:
        if id(value) not in weights and not isinstance(value, nn.Parameter) and value._base is None:
            kept[id(value)] = 2 * prod(value.shape)
            alive.append(value)  # else another tensor may get its id
        return value

    alive: list[torch.Tensor] = []
    with (
        FlopCounterMode(display=False, custom_mapping=ATTENTION) as counter,
        torch.autograd.graph.saved_tensors_hooks(note, lambda value: value),
    ):
        call(*inputs)
    return float(counter.get_total_flops()), float(sum(kept.values()))
