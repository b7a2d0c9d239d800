"""Test the generator: causality, hard and soft input, the cache, sizes."""

from __future__ import annotations

import pytest
import torch

from gear.generator.config import GeneratorConfig
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


def tokens(count: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(3)
    return torch.randint(K, (count, L), generator=random), torch.arange(count) % CLASSES


@pytest.mark.parametrize("position", range(L))
def test_position_k_is_blind_to_token_k_and_later(position: int) -> None:
    generator = build()
    drawn, labels = tokens()
    changed = drawn.clone()
    changed[:, position:] = (changed[:, position:] + 1) % K
    for a, b in zip(generator(drawn, labels), generator(changed, labels), strict=True):
        torch.testing.assert_close(a[:, : position + 1], b[:, : position + 1], rtol=0, atol=0)
        if position + 1 < L:
            assert not torch.allclose(a[:, position + 1 :], b[:, position + 1 :])


def test_one_hot_shares_equal_tokens() -> None:
    generator = build()
    drawn, labels = tokens()
    soft = torch.nn.functional.one_hot(drawn, K).float()
    torch.testing.assert_close(
        generator(lambda table: soft @ table, labels).logits, generator(drawn, labels).logits
    )


def test_the_tap_alone_equals_the_tap_of_a_full_pass() -> None:
    generator = build()
    drawn, labels = tokens()
    alone = generator(drawn, labels, tap_only=True)
    assert alone.logits is None
    torch.testing.assert_close(alone.tap, generator(drawn, labels).tap, rtol=0, atol=0)


def test_the_last_token_gets_no_alignment_gradient() -> None:
    generator = build()
    soft = torch.rand(2, L, K).softmax(-1).requires_grad_()
    (gradient,) = torch.autograd.grad(
        generator(lambda table: soft @ table, torch.tensor([0, 1]), tap_only=True)
        .tap.square()
        .sum(),
        soft,
    )
    assert not gradient[:, -1].any()
    assert gradient[:, :-1].abs().sum(-1).all()


@pytest.mark.parametrize("prefix_rope", ["identity", "zero"])
def test_cached_decoding_equals_the_full_pass(prefix_rope: str) -> None:
    generator = build(prefix_rope=prefix_rope)
    drawn, labels = tokens()
    caches, last, steps = generator.new_cache(labels, torch.float32), None, []
    with torch.inference_mode():
        for position in range(L):
            steps.append(generator.decode(last, labels, caches, position))
            last = drawn[:, position]
        torch.testing.assert_close(
            torch.stack(steps, 1), generator(drawn, labels).logits, atol=1e-5, rtol=1e-4
        )


@pytest.mark.parametrize(
    ("layers", "heads", "width", "millions"),
    [(12, 12, 384, 34.2), (12, 12, 768, 110.9), (24, 16, 1024, 342.9), (36, 20, 1280, 774.7)],
)
def test_published_sizes(layers: int, heads: int, width: int, millions: float) -> None:
    with torch.device("meta"):
        generator = Generator(
            GeneratorConfig(layers=layers, heads=heads, width=width, tap=1, steps=0),
            codes=16384,
            grid=16,
            classes=1000,
        )
    assert sum(p.numel() for p in generator.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)


def test_an_untrained_head_is_uniform() -> None:
    generator = Generator(
        GeneratorConfig(layers=1, heads=1, width=8, tap=1, steps=0), codes=K, grid=GRID, classes=2
    )
    assert not generator(*tokens()).logits.any()


@pytest.mark.parametrize("tap_only", [False, True])
def test_checkpointing_changes_no_gradient(tap_only: bool) -> None:
    gradients = []
    for checkpointing in (False, True):
        generator = build(dropout=0.3).train()
        generator.activation_checkpointing = checkpointing
        drawn, labels = tokens()
        torch.manual_seed(5)
        output = generator(drawn, labels, tap_only=tap_only)
        (output.tap if tap_only else output.logits).square().sum().backward()
        gradients.append([p.grad for p in generator.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        assert (plain is None) == (recomputed is None)
        assert plain is None or torch.equal(plain, recomputed)
