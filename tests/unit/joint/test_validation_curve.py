"""Test validation scores during training against their formulas."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gear.data.shards import encode_png, image_row, read_split, write_shards
from gear.joint.model import GuidedGenerator, build_guided_generator
from gear.joint.validation_curve import ValidationSet, validation_scores
from gear.tokenizer.inference import encode_images
from gear.tokenizer.model import Tokenizer
from tests.support.images import blotches
from tests.support.settings import tiny_settings

COUNT = 40
WIDTH = 6


@pytest.fixture
def models() -> tuple[GuidedGenerator, Tokenizer]:
    config = tiny_settings()
    torch.manual_seed(0)
    tokenizer = Tokenizer(config.tokenizer).eval()
    guided = build_guided_generator(
        config.generator,
        codes=config.tokenizer.codes,
        grid=config.grid,
        classes=3,
        empty_caption=None,
        teachers=(WIDTH,),
        activation_checkpointing=False,
    ).eval()
    torch.nn.init.normal_(guided.generator.output.weight, std=0.02)  # it is initialised to zero
    return guided, tokenizer


@pytest.fixture
def validation(tmp_path: Path) -> ValidationSet:
    config = tiny_settings()
    images = blotches(0, count=2 * COUNT, size=config.data.size)
    size = images.shape[1:3]
    write_shards(
        (image_row(str(n), encode_png(x), size, n % 3, "") for n, x in enumerate(images)), tmp_path
    )
    subset = read_split(tmp_path).subset(COUNT)
    features = np.random.default_rng(0).normal(size=(COUNT, 1, config.grid**2, WIDTH))
    labels = torch.from_numpy(subset.split.labels[subset.indices])
    return ValidationSet(subset, lambda rows: labels[rows], features.astype(np.float16))


def test_scores_are_the_likelihood_and_the_mean_cosine(
    models: tuple[GuidedGenerator, Tokenizer], validation: ValidationSet
) -> None:
    guided, tokenizer = models
    scores = validation_scores(guided, tokenizer, validation)
    tokens = torch.from_numpy(encode_images(tokenizer, validation.images))
    with torch.no_grad():
        output, projected = guided(tokens, validation.conditions(np.arange(COUNT)))
    assert output.logits is not None
    log_p = output.logits.double().log_softmax(-1).gather(-1, tokens[..., None])
    bits = -log_p.sum(dim=(1, 2)) / np.log(2)
    assert scores["val/ntp_bits"] == pytest.approx(bits.mean().item())
    teacher = torch.from_numpy(validation.features[:, 0].astype(np.float32))
    cosine = F.cosine_similarity(projected, teacher, dim=-1)
    assert scores["val/teacher_cosine"] == pytest.approx(cosine.mean().item(), abs=1e-6)
