"""Test the size and direction of the guidance gradient relative to the tokenizer's own."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from gear.generator.conditioning import Condition
from gear.joint.guidance_gradient import guidance_gradient
from gear.joint.model import GuidedGenerator, build_guided_generator
from gear.tokenizer.model import Tokenizer
from gear.tokenizer.quantizers import Quantized
from tests.support.settings import tiny_settings

WIDTH = 6
STRONG = 1e4  # large, as the gradient of an untrained generator is small
Models = tuple[GuidedGenerator, Tokenizer]


@pytest.fixture
def models() -> Models:
    config = tiny_settings()
    torch.manual_seed(0)
    guided = build_guided_generator(
        config.generator,
        codes=config.tokenizer.codes,
        grid=config.grid,
        classes=3,
        empty_caption=None,
        teachers=(WIDTH,),
        activation_checkpointing=False,
    ).eval()
    return guided, Tokenizer(config.tokenizer).eval()


def of_reconstruction(made: torch.Tensor, images: torch.Tensor, _: Quantized) -> torch.Tensor:
    return F.mse_loss(made, images)


def batch(seed: int) -> tuple[torch.Tensor, torch.Tensor, Condition]:
    config = tiny_settings()
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(4, 3, config.data.size, config.data.size, generator=generator) * 2 - 1
    teacher = torch.randn(4, config.grid**2, WIDTH, generator=generator)
    return images, teacher, torch.tensor([0, 1, 2, 0])


def measure(models: Models, **changes: float) -> dict[str, float]:
    guided, tokenizer = models
    images, teacher, classes = batch(2)
    options = {"temperature": 0.5, "weight": 0.5} | changes
    return guidance_gradient(
        guided, tokenizer, images, classes, teacher, of_reconstruction, readout="soft", **options
    )


def test_the_ratio_goes_with_the_weight_and_the_cosine_does_not(models: Models) -> None:
    half = measure(models)
    double = measure(models, weight=1.0)
    assert half["guidance/ratio"] > 0
    assert double["guidance/ratio"] == pytest.approx(2 * half["guidance/ratio"], rel=1e-5)
    assert double["guidance/cosine"] == pytest.approx(half["guidance/cosine"], abs=1e-6)


def test_the_law_of_cosines_holds_for_the_gradient_of_the_sum(models: Models) -> None:
    """Test |a + b|^2 = |a|^2 (1 + ratio^2 + 2 ratio cosine) with sums by ordinary backwards."""
    guided, tokenizer = models
    found = measure(models, weight=STRONG)
    images, teacher, classes = batch(2)
    norms = {}
    for weight in (0.0, STRONG):
        seen: list[torch.Tensor] = []
        hook = tokenizer.quant_conv.register_full_backward_hook(
            lambda module, of_input, of_output, seen=seen: seen.append(of_output[0])
        )
        output = tokenizer(images)
        shares = (-output.quantized.assignment.distances() / 0.5).softmax(-1)
        total = of_reconstruction(output.reconstruction, images, output.quantized)
        _, projected = guided(partial(torch.matmul, shares), classes, tap_only=True)
        total = total - weight * F.cosine_similarity(projected, teacher, dim=-1).mean()
        total.backward()
        hook.remove()
        norms[weight] = seen[0].double().norm().item()
    ratio, cosine = found["guidance/ratio"], found["guidance/cosine"]
    assert norms[STRONG] ** 2 == pytest.approx(
        norms[0.0] ** 2 * (1 + ratio**2 + 2 * ratio * cosine), rel=1e-4
    )
