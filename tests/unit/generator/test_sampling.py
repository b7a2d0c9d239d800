"""Test sampling: seeds, guidance, truncation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gear.generator.config import GeneratorConfig, SampleConfig
from gear.generator.sampling import pick, sample, truncate
from gear.generator.transformer import Generator

K, GRID, CLASSES = 13, 3, 4


L = GRID * GRID


def build(**changes: object) -> Generator:
    torch.manual_seed(0)
    settings = {
        "layers": 3,
        "heads": 2,
        "width": 16,
        "tap": 2,
        "steps": 0,
        "dropout": 0.0,
    } | changes
    generator = Generator(
        GeneratorConfig.model_validate(settings), codes=K, grid=GRID, classes=CLASSES
    )
    torch.nn.init.normal_(generator.output.weight, std=0.5)
    return generator.eval()


def drawing(**changes: object) -> SampleConfig:
    return SampleConfig.model_validate({"n": 1, "guidance": 1.0, "temperature": 1.0} | changes)


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_a_sample_depends_on_its_seed_and_label_alone(guidance: float) -> None:
    generator = build()
    labels, seeds = torch.arange(6) % CLASSES, np.arange(6) + 40
    settings = drawing(guidance=guidance)
    together = sample(generator, labels, seeds, settings)
    apart = torch.cat(
        [sample(generator, labels[i : i + 1], seeds[i : i + 1], settings) for i in range(6)]
    )
    assert torch.equal(together, apart)
    assert not torch.equal(together, sample(generator, labels, seeds + 100, settings))


def test_guidance_is_u_plus_s_times_c_minus_u() -> None:
    generator = build()
    labels = torch.tensor([1, 2])
    drawn = sample(generator, labels, np.array([1, 2]), drawing(guidance=3.0, top_k=1))
    conditional = generator(drawn, labels).logits
    unconditional = generator(drawn, torch.full_like(labels, CLASSES)).logits
    assert torch.equal((unconditional + 3.0 * (conditional - unconditional)).argmax(-1), drawn)


def test_draws_follow_the_distribution() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.125, 0.125]], dtype=torch.float64)).expand(
        8000, 4
    )
    uniform = (torch.arange(8000, dtype=torch.float64) + 0.5) / 8000
    share = torch.bincount(pick(logits, uniform), minlength=4) / 8000
    torch.testing.assert_close(share, torch.tensor([0.5, 0.25, 0.125, 0.125]), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("top_k", "top_p", "kept"),
    [(2, 1.0, {0, 2}), (0, 0.5, {0}), (0, 0.75, {0, 2}), (3, 0.6, {0, 2}), (0, 1.0, {0, 1, 2, 3})],
)
def test_truncation_keeps_the_likeliest(top_k: int, top_p: float, kept: set[int]) -> None:
    logits = torch.log(torch.tensor([[0.5, 0.08, 0.3, 0.12]]))
    assert (
        set(torch.isfinite(truncate(logits, top_k, top_p)[0]).nonzero().flatten().tolist()) == kept
    )


def test_guidance_holds_inside_its_interval_only() -> None:
    generator = build()
    labels = torch.tensor([1, 2])
    drawn = sample(
        generator, labels, np.array([1, 2]), drawing(guidance=3.0, top_k=1, interval=(1 / 3, 2 / 3))
    )
    conditional = generator(drawn, labels).logits
    unconditional = generator(drawn, torch.full_like(labels, CLASSES)).logits
    mixed = unconditional + 3.0 * (conditional - unconditional)
    inside = torch.zeros(L, dtype=torch.bool)
    inside[3:6] = True
    assert torch.equal(torch.where(inside[:, None], mixed, conditional).argmax(-1), drawn)
