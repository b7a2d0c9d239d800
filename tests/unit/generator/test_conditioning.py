"""Test the generator on captions: padding, causality, cache, dropped captions, dual streams."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from gear.core.model_folder import save_model
from gear.generator.conditioning import Captions, concatenate, pack
from gear.generator.config import GeneratorConfig, SampleConfig
from gear.generator.inference import load_generator
from gear.generator.sampling import sample
from gear.generator.transformer import DualBlock, Generator, causal_mask

K, GRID, WIDTH = 13, 3, 6


L = GRID * GRID


RANDOM = np.random.default_rng(0)


EMPTY = torch.from_numpy(RANDOM.standard_normal((2, WIDTH)).astype(np.float32))


TEXTS = [RANDOM.standard_normal((length, WIDTH)).astype(np.float16) for length in (4, 1, 3)]


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
        GeneratorConfig.model_validate(settings), codes=K, grid=GRID, empty_caption=EMPTY
    )
    for module in generator.modules():
        if isinstance(module, torch.nn.Linear):
            # large enough that a leak through the mask would change the outputs
            torch.nn.init.normal_(module.weight, std=0.4)
    return generator.eval()


def tokens(count: int = 3) -> torch.Tensor:
    return torch.randint(K, (count, L), generator=torch.Generator().manual_seed(3))


def padded(captions: Captions, more: int) -> Captions:
    """Return the same captions with more padding."""
    states = torch.nn.functional.pad(captions.states_BTC, (0, 0, 0, more))
    return Captions(states, torch.nn.functional.pad(captions.real_BT, (0, more)))


@pytest.mark.parametrize("prefix_rope", ["identity", "zero"])
def test_padding_changes_nothing(prefix_rope: str) -> None:
    generator, captions, drawn = build(prefix_rope=prefix_rope), pack(TEXTS), tokens()
    first, second = generator(drawn, captions), generator(drawn, padded(captions, 5))
    torch.testing.assert_close(first.logits, second.logits)
    torch.testing.assert_close(first.tap, second.tap, rtol=1e-4, atol=1e-4)
    # the shortest caption, without padding to the length of the others
    alone = generator(drawn[1:2], pack(TEXTS[1:2]))
    torch.testing.assert_close(first.logits[1:2], alone.logits)


def test_what_stands_in_padding_is_not_seen_but_every_word_is() -> None:
    generator, captions, drawn = build(), pack(TEXTS), tokens()
    before = generator(drawn, captions).logits
    rubbish = captions.states_BTC.clone()
    rubbish[1, 1:-1] = 9.0  # caption 1 has one word; the last position is the start vector
    torch.testing.assert_close(generator(drawn, Captions(rubbish, captions.real_BT)).logits, before)
    for word in range(4):
        changed = captions.states_BTC.clone()
        changed[0, word] += 1.0
        after = generator(drawn, Captions(changed, captions.real_BT)).logits
        assert (after[0] != before[0]).any(-1).all(), "every position sees every word"
        torch.testing.assert_close(after[1:], before[1:], rtol=0, atol=0)


@pytest.mark.parametrize("position", range(0, L, 2))
def test_position_k_is_blind_to_token_k_and_later(position: int) -> None:
    generator, captions, drawn = build(), pack(TEXTS), tokens()
    changed = drawn.clone()
    changed[:, position:] = (changed[:, position:] + 1) % K
    one, two = generator(drawn, captions), generator(changed, captions)
    for a, b in ((one.tap, two.tap), (one.logits, two.logits)):
        torch.testing.assert_close(a[:, : position + 1], b[:, : position + 1], rtol=0, atol=0)
        assert position + 1 == L or not torch.allclose(a[:, position + 1 :], b[:, position + 1 :])


def test_no_row_of_the_mask_is_empty() -> None:
    mask = causal_mask(pack(TEXTS), 5 + L - 1)
    assert mask is not None
    assert mask.any(-1).all()
    assert not mask.triu(1).any()
    with pytest.raises(ValueError, match="without tokens"):
        pack([TEXTS[0][:0]])


@pytest.mark.parametrize("prefix_rope", ["identity", "zero"])
def test_cached_decoding_equals_the_full_pass(prefix_rope: str) -> None:
    generator, captions, drawn = build(prefix_rope=prefix_rope), pack(TEXTS), tokens()
    caches, last, steps = generator.new_cache(captions, torch.float32), None, []
    with torch.inference_mode():
        for position in range(L):
            steps.append(generator.decode(last, captions, caches, position))
            last = drawn[:, position]
        torch.testing.assert_close(torch.stack(steps, 1), generator(drawn, captions).logits)


def test_with_zero_prefix_rotation_text_is_averaged_whatever_it_says() -> None:
    """Test that image positions in the first block weigh every word alike.

    Zero rotation makes the keys of all words the same.
    """
    generator = build(prefix_rope="zero", layers=1, tap=1)
    attention = generator.layers[0].attention
    table = generator._rows(0, 6, 4)
    x = torch.randn(1, 6, 16, generator=torch.Generator().manual_seed(1))
    swapped = x.clone()
    swapped[:, [0, 1]] = x[:, [1, 0]]
    mask = torch.ones(6, 6, dtype=torch.bool).tril()[None, None]
    one, two = (attention(value, table, mask, None, 0)[:, 4:] for value in (x, swapped))
    torch.testing.assert_close(one, two)
    turned = build(prefix_rope="identity", layers=1, tap=1)
    table = turned._rows(0, 6, 4)
    x = x + torch.arange(6)[None, :, None]  # so that words differ in direction and in norm
    weighted = turned.layers[0].attention(x, table, mask, None, 0)[:, 4:]
    values = turned.layers[0].attention.wo(
        turned.layers[0].attention.wqkv(x).chunk(3, -1)[2].cumsum(1)[:, 4:]
        / torch.arange(5, 7)[None, :, None]
    )
    assert not torch.allclose(weighted, values, rtol=1e-2), "identity rotation does not average"


def test_a_dropped_caption_is_the_empty_one() -> None:
    generator, captions, drawn = build(), pack(TEXTS), tokens()
    empty = pack([EMPTY.numpy()] * 3)
    torch.testing.assert_close(
        generator(drawn, generator.null(captions)).logits, generator(drawn, empty).logits
    )
    some = generator.cls_embedding.drop(captions, torch.tensor([True, False, False]))
    logits = generator(drawn, some).logits
    torch.testing.assert_close(logits[0], generator(drawn, empty).logits[0])
    torch.testing.assert_close(logits[1:], generator(drawn, captions).logits[1:])
    always = build(class_dropout=1.0).train()
    torch.testing.assert_close(always(drawn, captions).logits, generator(drawn, empty).logits)


def test_the_first_third_is_dual_stream_and_its_text_weights_learn() -> None:
    generator = build(layers=7, tap=3)
    assert [isinstance(layer, DualBlock) for layer in generator.layers] == [True] * 2 + [False] * 5
    loss = generator.train()(tokens(), pack(TEXTS)).logits.square().sum()
    loss.backward()
    text = {n: p for n, p in generator.named_parameters() if "_text" in n or "cap_proj" in n}
    assert len(text) == 2 * 4 + 4
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in text.values())


def test_guidance_is_its_formula_and_a_sample_does_not_depend_on_its_neighbours() -> None:
    generator, captions = build(), pack(TEXTS)
    settings = SampleConfig.model_validate({"n": 3, "guidance": 3.0, "temperature": 1.0})
    seeds = np.arange(3)
    drawn = sample(generator, captions, seeds, settings)
    for row in range(3):
        alone = sample(generator, pack(TEXTS[row : row + 1]), seeds[row : row + 1], settings)
        assert torch.equal(alone[0], drawn[row])
    with torch.inference_mode():  # the drawn tokens follow u + s (c - u) of full passes
        c, u = (
            generator(drawn, one).logits.double() for one in (captions, generator.null(captions))
        )
    cumulative = (u + 3.0 * (c - u)).softmax(-1).cumsum(-1)
    draws = torch.from_numpy(
        np.stack([np.random.Generator(np.random.Philox(int(s))).random(L) for s in seeds])
    )
    assert torch.equal((cumulative > draws[..., None]).int().argmax(-1), drawn)


def test_concatenated_captions_keep_their_rows() -> None:
    captions = pack(TEXTS)
    both = concatenate(captions, captions)
    assert len(both) == 6
    assert isinstance(both, Captions)
    torch.testing.assert_close(both.states_BTC[3:], captions.states_BTC)


def test_a_checkpoint_brings_its_empty_caption(tmp_path: Path) -> None:
    generator = build()
    shape = {
        "generator": generator.config.model_dump(mode="json"),
        "codes": K,
        "grid": GRID,
        "classes": 4,
        "condition": "caption",
    }
    save_model(tmp_path, generator.state_dict(), shape)
    loaded = load_generator(tmp_path)
    torch.testing.assert_close(
        loaded(tokens(), pack(TEXTS)).logits, generator(tokens(), pack(TEXTS)).logits
    )
    torch.testing.assert_close(loaded.cls_embedding.empty, EMPTY)
