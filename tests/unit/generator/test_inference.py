"""Test how many images are sampled at a time."""

from __future__ import annotations

import pytest
import torch

from gear.generator import inference
from gear.generator.conditioning import Captions, Condition
from gear.generator.config import GeneratorConfig, SampleConfig
from gear.generator.transformer import Generator

SHAPE = {"layers": 3, "heads": 2, "width": 16, "tap": 2, "steps": 0, "dropout": 0.0}
CAPTIONS = Captions(torch.ones(8, 5, 4), torch.tensor([[True] * 4 + [False]] * 8))


@pytest.mark.parametrize("condition", [torch.zeros(8, dtype=torch.int64), CAPTIONS])
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_keys_and_values_of_the_images_drawn_at_a_time_fit_the_bound(
    condition: Condition, guidance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    knows = {"empty_caption": torch.ones(1, 4)} if condition is CAPTIONS else {"classes": 4}
    generator = Generator(GeneratorConfig.model_validate(SHAPE), codes=13, grid=3, **knows)
    settings = SampleConfig.model_validate({"guidance": guidance})
    cache = generator.new_cache(condition[:1], torch.float32)
    image = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache)
    image *= 2 if guidance > 1 else 1
    for bytes_allowed, expected in ((1, 1), (3 * image - 1, 2), (3 * image, 3), (1 << 40, 128)):
        monkeypatch.setattr(inference, "CACHE", bytes_allowed)
        assert inference.images_at_once(generator, condition, settings) == expected
