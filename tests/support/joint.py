"""Make small models and batches for joint steps."""

from __future__ import annotations

import torch

from gear.generator.transformer import Generator
from gear.joint.alignment import Projector
from gear.joint.model import GuidedGenerator
from gear.params import Config
from gear.tokenizer.model import Tokenizer
from gear.training.batches import Batch
from tests.support.settings import tiny_settings

CLASSES, WIDTH = 3, 10


def small(quantizer: str = "vq") -> Config:
    """Return the tiny settings in fp32 and without dropout."""
    own = {"code_dim": 6, "z_channels": 6} if quantizer == "lfq" else {}
    return tiny_settings(
        train={"bf16": False},
        generator={"dropout": 0.0, "class_dropout": 0.0},
        tokenizer={"quantizer": quantizer, **own},
    )


def models(config: Config) -> tuple[Tokenizer, GuidedGenerator]:
    torch.manual_seed(1)
    generator = Generator(
        config.generator, codes=config.tokenizer.codes, grid=config.grid, classes=CLASSES
    )
    # with the zero initialisation, the next-token loss would send no gradient below the head
    torch.nn.init.normal_(generator.output.weight, std=0.02)
    projector = Projector(config.generator.width, config.generator.projector_hidden, (WIDTH,))
    return Tokenizer(config.tokenizer).train(), GuidedGenerator(generator, projector).train()


def batch(config: Config, seed: int, count: int = 4) -> Batch:
    random = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 3, config.data.size, config.data.size, generator=random) * 2 - 1
    teacher = torch.randn(count, config.grid**2, WIDTH, generator=random)
    labels = torch.arange(count) % CLASSES
    return Batch(images, labels, teacher, [f"image-{i}" for i in range(count)])
