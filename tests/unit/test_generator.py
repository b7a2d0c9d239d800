"""The generator: causality, the two kinds of input, the cache, sizes; and sampling."""

from __future__ import annotations

import cmath

import numpy as np
import pytest
import torch

from gear.generator.config import GeneratorConfig, SampleConfig
from gear.generator.rope import rotary_table, rotate
from gear.generator.sampling import pick, sample, truncate
from gear.generator.transformer import Generator
from gear.nn.dropout import Dropout

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
    assert not gradient[:, -1].any() and gradient[:, :-1].abs().sum(-1).all()


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


def test_a_zeroed_prefix_is_seen_without_regard_to_content() -> None:
    table = rotary_table(GRID, 8, 1, "zero")
    assert not table[0].any()
    assert torch.equal(rotary_table(GRID, 8, 1, "identity")[0, :, 0], torch.ones(4))


def test_rotation_is_multiplication_by_a_unit_complex_number() -> None:
    width, base = 8, 10_000.0
    x = torch.randn(1, 1 + L, 1, width)
    ours = rotate(x, rotary_table(GRID, width, 1, "identity"))[0, :, 0]
    for token in range(L):
        for pair in range(width // 2):
            coordinate = token // GRID if pair < width // 4 else token % GRID
            angle = coordinate * base ** (-(pair % (width // 4)) * 2 / (width // 2))
            value = complex(*x[0, token + 1, 0, 2 * pair : 2 * pair + 2].tolist()) * cmath.exp(
                1j * angle
            )
            assert ours[token + 1, 2 * pair].item() == pytest.approx(value.real, abs=1e-5)
            assert ours[token + 1, 2 * pair + 1].item() == pytest.approx(value.imag, abs=1e-5)


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


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    layer, x = Dropout(0.1).train(), torch.ones(1000, 1001, requires_grad=True)
    y = layer(x)
    share = (y == 0).double().mean().item()
    assert share == pytest.approx(0.1, abs=0.0015)  # five standard deviations of a million draws
    assert y.unique().tolist() == pytest.approx([0.0, 1 / 0.9])
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())
    torch.manual_seed(0)
    assert torch.equal(layer(x), y)
    assert torch.equal(layer.eval()(x), x)


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
