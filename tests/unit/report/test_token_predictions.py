"""Test the report's token predictions against the likelihood of the same tokens."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from gear.evaluation.likelihood import bits_per_image, next_token_nats
from gear.generator.transformer import Generator
from gear.report.token_predictions import Predictions, predict_tokens
from gear.report.tokenizer_pictures import mapped, sections
from tests.support.settings import tiny_settings
from tests.unit.report.test_page import reconstructed, tokenizer_of

CODES, GRID = 16, 4


@pytest.fixture
def generator() -> Generator:
    torch.manual_seed(0)
    return Generator(tiny_settings().generator, codes=CODES, grid=GRID, classes=3).eval()


def tokens() -> np.ndarray:
    return np.random.default_rng(0).integers(0, CODES, (5, GRID**2))


def test_an_untrained_generator_expects_every_code_alike(generator: Generator) -> None:
    found = predict_tokens(generator, tokens(), torch.tensor([0, 1, 2, 0, 1]))
    assert found.entropy.shape == found.cost.shape == (5, GRID**2)
    assert found.entropy == pytest.approx(math.log2(CODES))
    assert found.cost == pytest.approx(math.log2(CODES))


def test_costs_add_up_to_the_bits_of_an_image(generator: Generator) -> None:
    torch.nn.init.normal_(generator.output.weight, std=0.5)
    labels = torch.tensor([0, 1, 2, 0, 1])
    found = predict_tokens(generator, tokens(), labels)
    nats = next_token_nats(generator, tokens(), lambda rows: labels[rows])
    assert found.cost.sum(1).mean() == pytest.approx(bits_per_image(nats, GRID**2))
    assert found.entropy.min() >= 0
    assert found.entropy.max() <= math.log2(CODES)
    assert found.entropy.std() > 0.01


def test_entropy_is_drawn_from_white_to_black_and_told_by_token() -> None:
    found, codes = reconstructed(5, 8, 8), 8
    shape = found.tokens[mapped(found)].shape
    entropy, cost = np.zeros(shape), np.full(shape, 2.0)
    entropy[0, 1] = math.log2(codes)
    shown = sections(
        tokenizer_of(codes), found, ["a", "b"], np.zeros(1), Predictions(entropy, cost)
    )
    first = shown["maps"][0]
    assert shown["most_entropy"] == "3"
    assert first["bits_of_image"] == f"{2 * shape[1]}"
    label = json.loads(first["costs"])["labels"][1]
    assert label == f"entropy 3.0 bits; code {found.tokens[mapped(found)[0], 1]} costs 2.0"
    assert first["entropy"] != shown["maps"][1]["entropy"]
